"""FFT convolution over one, two or three axes."""

from subquad.ops.fft_conv.fft_conv import fft_conv as fft_conv
from subquad.ops.fft_conv.lowering import FftConvLowering as FftConvLowering
from subquad.ops.fft_conv.lowering import LoweringStatistics as LoweringStatistics
