"""Estimators of kernel times: formulas of a datasheet whose few free numbers are fitted to measured kernels."""

from .attention import DecodeEstimator as DecodeEstimator
from .attention import PrefillEstimator as PrefillEstimator
from .base import KernelEstimator as KernelEstimator
from .base import NotFittedError as NotFittedError
from .crossval import Score as Score
from .crossval import cross_validate as cross_validate
from .gemm import GemmEstimator as GemmEstimator
from .grouped import GroupedGemmEstimator as GroupedGemmEstimator
from .profile import ESTIMATORS as ESTIMATORS
from .profile import KernelProfile as KernelProfile
from .streaming import StreamingEstimator as StreamingEstimator
