def _libm(name):
    def f(lanes, dtype, x):
        t = lanes.type(dtype)
        return lanes.op(f"call {t} @llvm.{name}.v{lanes.width}f{'64' if dtype=='float64' else '32'}({t} {x})")
    return f
exp=_libm("exp"); log=_libm("log"); tanh=_libm("tanh")
def expm1(l,d,x): raise NotImplementedError
log1p=expm1
def logistic(lanes, dtype, x):
    t=lanes.type(dtype); one=lanes.const(1,dtype)
    m=exp(lanes,dtype,lanes.op(f"fneg {t} {x}"))
    return lanes.op(f"fdiv {t} {one}, " + lanes.op(f"fadd {t} {one}, {m}"))
