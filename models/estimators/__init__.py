"""Estimators of kernel times: formulas of a datasheet whose few free numbers are fitted to measured kernels."""

from .attention import DecodeEstimator as DecodeEstimator
from .attention import PrefillEstimator as PrefillEstimator
from .base import KernelEstimator as KernelEstimator
from .base import NotFittedError as NotFittedError
from .collectives import CollectiveEstimator as CollectiveEstimator
from .copies import CopyEstimator as CopyEstimator
from .crossval import Score as Score
from .crossval import cross_validate as cross_validate
from .gemm import GemmEstimator as GemmEstimator
from .grouped import GroupedGemmEstimator as GroupedGemmEstimator
from .host import HostDecodeEstimator as HostDecodeEstimator
from .host import HostGemmEstimator as HostGemmEstimator
from .host import HostGroupedGemmEstimator as HostGroupedGemmEstimator
from .host import HostPrefillEstimator as HostPrefillEstimator
from .host import HostStreamingEstimator as HostStreamingEstimator
from .profile import ESTIMATORS as ESTIMATORS
from .profile import HOST_ESTIMATORS as HOST_ESTIMATORS
from .profile import KernelProfile as KernelProfile
from .streaming import StreamingEstimator as StreamingEstimator
