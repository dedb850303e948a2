def read_foreign(graph, dt, reset):
    raise NotImplementedError
