"""The Flax nnx module that every layer is: it holds the parameters."""

from __future__ import annotations

import dataclasses
from typing import Any, dataclass_transform

import jax
from flax import nnx

from tracetorch_jax._core.cell import AbstractCell, Carry, checked_init
from tracetorch_jax._core.parameters import Parameter, freeze_value
from tracetorch_jax.functional.steps import is_stochastic


@dataclasses.dataclass(repr=False, eq=False)
@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class TraceCell(AbstractCell, nnx.RNNCellBase):
    """Base of all layers: one step of a trace layer as a Flax cell.

    A subclass says what it is made of (`spec`), what it fires with (`spike_function`) and what each
    parameter was set to (`setting`); everything else is here. Learnable parameters are `nnx.Param`
    attributes named ``raw_<name>``; all else is static.

    Args:
        num_neurons: size of axis `dim`, at least 1.
        dim: axis of one step's tensor that holds the neurons, counted from the end.
        dtype: what is computed in and given out, see the named layers.
        param_dtype: what parameters are stored as.
        rngs: random numbers, needed for an initializer and for stochastic spikes.

    Raises:
        NotImplementedError: it is made itself; make one of its subclasses.

    Example:
        >>> isinstance(snn.LIB(8), snn.TraceCell), isinstance(snn.LIB(8), nnx.RNNCellBase)
        (True, True)
    """

    rngs: Any = dataclasses.field(default=None, kw_only=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(kw_only=True, repr=False, eq=False)(cls)
        cls.__init__ = checked_init(cls, cls.__init__)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        rngs = self.rngs
        check_rngs(rngs)
        self.check_fields()
        for parameter in self.describe():
            if parameter.learnable:
                setattr(self, parameter.raw_name, create(parameter, rngs))
        self.rngs = nnx.data(None)
        if is_stochastic(self.spike_function):
            spikes = stream(rngs, "spike", f"the stochastic spikes of {type(self).__name__}")
            self.rngs = spikes.fork()

    def __setattr__(self, name: str, value: object) -> None:
        if f"{name}_rank" in type(self).__dataclass_fields__:
            # nnx takes an array for a variable; what a parameter starts from is none.
            value = freeze_value(name, value)
        super().__setattr__(name, value)

    def set_field(self, name: str, value: object) -> None:
        """Set a field while the layer is made."""
        setattr(self, name, value)

    def raw(self, name: str) -> jax.Array:
        """The raw value of a learnable parameter."""
        return getattr(self, f"raw_{name}")[...]

    def draw_key(self) -> jax.Array:
        """A key of the layer's own stream, which was forked off ``rngs.spike``."""
        return self.rngs()

    def parameters(self) -> dict[str, jax.Array]:
        """Constrained value of every parameter, learnable or not, by name.

        Returns:
            Arrays of shape ``(num_neurons,)`` or ``()``, of `param_dtype`.

        Example:
            >>> snn.LIB(2, beta=0.5).parameters()["beta"].tolist()
            [0.5, 0.5]
        """
        return super().parameters()

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ) -> Carry:
        """Zeros for every state.

        Args:
            input_shape: shape of one step's tensor, with `num_neurons` at axis `dim`.
            rngs: not used; Flax gives some to every cell.
            carry_init: not used.

        Returns:
            A dict from state name to array, of `dtype` (by default `param_dtype`).

        Raises:
            ValueError: `input_shape` lacks axis `dim` or has another size there.

        Example:
            >>> carry = snn.SLIB(8).initialize_carry((2, 8))
            >>> {name: state.shape for name, state in carry.items()}
            {'syn': (2, 8), 'mem': (2, 8)}
        """
        del rngs, carry_init
        return self.zeros(input_shape)


def check_rngs(rngs: object) -> None:
    """Raise unless it is a source of random numbers, or None."""
    if rngs is not None and not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"`rngs` must be an nnx.Rngs, such as nnx.Rngs(0); got {rngs!r}.")


def create(parameter: Parameter, rngs: nnx.Rngs | None) -> nnx.Param[Any]:
    """A new variable; what an initializer says of it, such as its sharding, stays with it."""
    if not callable(parameter.value):
        return nnx.Param(parameter.init(jax.random.key(0), parameter.shape, parameter.dtype))
    key = stream(rngs, "params", f"the initializer of `{parameter.label}`")()
    value = parameter.value(key, parameter.shape, parameter.dtype)
    boxed = isinstance(value, nnx.VariableMetadata)
    raw = parameter.raw_of(value.raw_value if boxed else value)
    return nnx.Param(dataclasses.replace(value, raw_value=raw) if boxed else raw)


def stream(rngs: nnx.Rngs | None, name: str, purpose: str) -> Any:
    """The stream of random numbers of this name, or the default one."""
    if not hasattr(rngs, name):
        got = "None" if rngs is None else f"only the streams {list(rngs)}"
        raise ValueError(
            f"`rngs` is needed for {purpose}, such as nnx.Rngs(0) or nnx.Rngs({name}=0); got {got}."
        )
    return getattr(rngs, name)
