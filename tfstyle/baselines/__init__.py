"""Other ways of changing gray scales, all behind the call of ``StyleTransfer.stylize``.

============================= ======================================== ======== =================
name                          what it is                               style    needs
============================= ======================================== ======== =================
contextual_transformation     generator for one domain (Mechrez 2018)  no       a trained model
adain_mse                     AdaIN with its paper's loss (Huang 2017) yes      a preset or model
gatys                         optimized pixels (Gatys 2016)            yes      an encoder, time
wct                           whitening and coloring (Li 2017)        yes      a preset or model
histogram_matching            one curve from two histograms            yes      nothing
foreground_histogram_matching the same over pixels above the floor     yes      nothing
mean_and_spread               the style's mean and standard deviation  yes      nothing
nyul                          piecewise linear between percentiles     yes      nothing
============================= ======================================== ======== =================

The one without style is given content alone; a style in the call is checked and not used.
"""

from __future__ import annotations

import inspect

from tfstyle._private.images import one_of
from tfstyle.baselines.adain_mse import AdaINMSE
from tfstyle.baselines.base import Baseline
from tfstyle.baselines.classical import (
    ForegroundHistogramMatching,
    HistogramMatching,
    MeanAndSpread,
    Nyul,
)
from tfstyle.baselines.contextual_transformation import (
    CascadedRefinement,
    ContextualTransformation,
)
from tfstyle.baselines.gatys import Gatys
from tfstyle.baselines.wct import WCT, color, whiten
from tfstyle.errors import ArgumentError, TfstyleError

#: Baselines by the name that :func:`get` and the command line use.
BASELINES: dict[str, type[Baseline]] = {
    kind.method: kind
    for kind in (
        AdaINMSE,
        ContextualTransformation,
        Gatys,
        WCT,
        HistogramMatching,
        ForegroundHistogramMatching,
        MeanAndSpread,
        Nyul,
    )
}


def get(name: str, **options) -> Baseline:
    """Makes a baseline that is ready to stylize.

    Args:
        name: A key of ``BASELINES``, for example ``"gatys"``.
        **options: Of the class; for ``"contextual_transformation"``, which needs training,
            ``model``: the trained model or its path.

    Raises:
        ArgumentError: unknown name or option, an option that cannot be used, or a missing model.
        MissingPackageError: if a package of the extra ``baselines`` is not installed.
        InputFileError: if a model file is missing or damaged.
        WeightsError: if there is no such preset, or weights cannot be had.

    Example:
        >>> tfstyle.baselines.get("histogram_matching").stylize(content, style).shape
        (64, 64)
    """
    name = name.lower().replace("-", "_")
    one_of("method", name, BASELINES)
    kind = BASELINES[name]
    maker = kind.ready if "ready" in vars(kind) else kind.__init__
    known = [option for option in inspect.signature(maker).parameters if option != "self"]
    unknown = sorted({*options} - {*known})
    if unknown:
        raise ArgumentError(
            f"{kind.method}: has no option {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(known) or 'none'}."
        )
    try:
        return kind.ready(**options)
    except TfstyleError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{kind.method}: an option cannot be used ({error}).") from error


__all__ = [
    "BASELINES",
    "WCT",
    "AdaINMSE",
    "Baseline",
    "CascadedRefinement",
    "ContextualTransformation",
    "ForegroundHistogramMatching",
    "Gatys",
    "HistogramMatching",
    "MeanAndSpread",
    "Nyul",
    "color",
    "get",
    "whiten",
]
