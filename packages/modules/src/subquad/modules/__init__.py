"""Sequence mixers behind one contract, and the networks built of them."""

from subquad.modules.exchange import LocalExchange as LocalExchange
from subquad.modules.exchange import SequenceExchange as SequenceExchange
from subquad.modules.mixer import Mixer as Mixer
from subquad.modules.mixer import MixerState as MixerState
from subquad.modules.mixer import ProjectedMixer as ProjectedMixer
from subquad.modules.mixers.attention import Attention as Attention
from subquad.modules.mixers.fir import HyenaMedium as HyenaMedium
from subquad.modules.mixers.fir import HyenaShort as HyenaShort
from subquad.modules.mixers.modal import HyenaLong as HyenaLong
from subquad.modules.networks.striped_hyena2 import StripedHyena2 as StripedHyena2
from subquad.modules.networks.striped_hyena2_state import StripedHyena2State as StripedHyena2State
