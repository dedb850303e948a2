"""The Flax (linen) module that every layer is: it holds the parameters."""

from __future__ import annotations

from typing import Any

import flax
import flax.linen as nn
import jax

from tracetorch_jax._core.cell import AbstractCell, Carry, checked_init
from tracetorch_jax.snn._front_end import bound, check_own


class TraceCell(AbstractCell, nn.RNNCellBase):
    """Base of all layers: one step of a trace layer as a Flax cell.

    A subclass says what it is made of (`spec`), what it fires with (`spike_function`) and what each
    parameter was set to (`setting`); everything else is here.

    Args:
        num_neurons: size of axis `dim`, at least 1.
        dim: axis of one step's tensor that holds the neurons, counted from the end.
        dtype: what is computed in and given out, see the named layers.
        param_dtype: what parameters are stored as.

    Raises:
        NotImplementedError: it is made itself; make one of its subclasses.

    Example:
        >>> isinstance(snn.LIB(8), snn.TraceCell), isinstance(snn.LIB(8), nn.RNNCellBase)
        (True, True)
    """

    # Flax wraps the methods that it finds in the class itself.
    parameters = bound(AbstractCell.parameters)
    __call__ = bound(AbstractCell.__call__)
    unroll = bound(AbstractCell.unroll)
    observe = AbstractCell.observe

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(kw_only=True, **kwargs)
        cls.__init__ = checked_init(  # type: ignore[method-assign]
            cls, cls.__init__, hidden=("parent", "name")
        )

    def __post_init__(self) -> None:
        self.check_fields()
        super().__post_init__()

    def setup(self) -> None:
        """Create the raw parameters."""
        check_own(self, [p.raw_name for p in self.describe() if p.learnable])
        self._raw = {
            p.name: self.param(p.raw_name, p.init, p.shape, self.param_dtype)
            for p in self.describe()
            if p.learnable
        }

    def raw(self, name: str) -> jax.Array:
        """The raw value of a learnable parameter."""
        return self._raw[name]

    def draw_key(self) -> jax.Array:
        """A key of the stream ``"spike"``."""
        try:
            return self.make_rng("spike")
        except flax.errors.InvalidRngError as error:
            error.add_note(
                f"The stochastic spikes of {type(self).__name__} need a key: "
                'model.apply(variables, ..., rngs={"spike": key}).'
            )
            raise

    @property
    def keeps_states(self) -> bool:
        """Whether the collection ``"trace_states"`` is mutable, see `tracetorch_jax.record`."""
        return self.is_mutable_collection("trace_states") and not self.is_initializing()

    def keep_states(self, states: Carry) -> None:
        """Store them in the collection ``"trace_states"``."""
        for name, values in states.items():
            self.sow("trace_states", name, values)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> Carry:
        """Zeros for every state.

        Args:
            rng: not used; Flax gives one to every cell.
            input_shape: shape of one step's tensor, with `num_neurons` at axis `dim`.

        Returns:
            A dict from state name to array, of `dtype` (by default `param_dtype`).

        Raises:
            ValueError: `input_shape` lacks axis `dim` or has another size there.

        Example:
            >>> carry = snn.SLIB(8).initialize_carry(None, (2, 8))
            >>> {name: state.shape for name, state in carry.items()}
            {'syn': (2, 8), 'mem': (2, 8)}
        """
        del rng
        return self.zeros(input_shape)
