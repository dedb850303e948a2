"""Published data sets, read from files that you have: events, and sounds.

Nothing is downloaded: the error for a file that is missing says where it is published and what to
type. Opening a set reads its labels. Recordings are read when they are needed, one at a time, so
that a set may be larger than the memory. The Heidelberg sets need the extra ``datasets`` (h5py).
"""

from tracetorch_jax.datasets._heidelberg import shd, ssc
from tracetorch_jax.datasets._rows import Recordings, Sounds
from tracetorch_jax.datasets._speech import speech_commands
from tracetorch_jax.datasets._vision import dvs_gesture, n_mnist

__all__ = ["Recordings", "Sounds", "dvs_gesture", "n_mnist", "shd", "speech_commands", "ssc"]
