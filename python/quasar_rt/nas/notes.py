"""Describes how a search was made, in sentences. Depends on `quasar_rt.nas`."""

from __future__ import annotations

from .boards import Modelled
from .record import Correlation, Images, PredictorFit, Record
from .result import Scoring
from .settings import Settings

__all__ = ["notes"]


_STRATEGIES = {"guided": "Guided search", "evolution": "NSGA-II"}


def notes(settings: Settings, modelled: Modelled, scoring: Scoring, record: Record) -> tuple[str, ...]:
    """Returns the notes of the page and of ``quasar-rt search``, a sentence or a few each."""
    s, o = settings, settings.options
    lines = [
        f"{_STRATEGIES[o.strategy]}, population {s.population}, {s.generations} generations, seed {o.seed}: "
        f"{record.scored:,} subnets of the space {modelled.space.name} were scored; their frame rates are modelled "
        f"for {modelled.label}. A target's subnet is, of those that reach it event by event, the one with the best "
        "score.",
        _reading(s, modelled),
    ]
    if o.explores:
        lines.append(_configurations(s, modelled))
    for name, limit, unit in (
        ("One frame alone takes", o.max_latency_ms, "ms"),
        ("A frame takes", o.max_energy_mj, "mJ, by powers that the board's file assumes"),
    ):
        if limit is not None:
            lines.append(f"{name} at most {limit:g} {unit}.")
    lines.append(_yardstick(record))
    lines += [_objective(name, record) for name in s.objectives]
    if record.images is None:
        lines.append(f"Scores are a {scoring.label}, made from the architecture alone; weights are random.")
    else:
        lines += _supernet(record.images, record, o.gptq)
    return tuple(lines)


def _reading(s: Settings, modelled: Modelled) -> str:
    """Returns what a target's rate is of."""
    host = modelled.table.host
    most = (
        f"{host.fps:,.0f} that the board's processor decodes, resizes and submits (pictures of {host.source_pixels:,} "
        "pixels)"
    )
    if s.options.fps_of == "board":
        return (
            "A target is a rate of the board: with the gaps in which its processor starts segments, and at most the "
            f"{most}. The accelerator's own rate stands next to it."
        )
    beyond = "; targets beyond that need frames that come ready" if host.fps < s.fps[-1] else ""
    return (
        "A target is a rate of the accelerator alone. The board's rate stands next to it: with the gaps in which its "
        f"processor starts segments, and at most the {most}{beyond}."
    )


def _configurations(s: Settings, modelled: Modelled) -> str:
    """Returns how configurations were explored."""
    clocks = f" at {', '.join(f'{clock:g}' for clock in s.clocks_mhz)} MHz" if s.clocks_mhz else ""
    return (
        f"Configurations of the accelerator were explored{clocks}: {len(modelled.designs)} are used, and each subnet "
        "is modelled on the one that suits it best. A target has the configuration on which its subnet reaches it, "
        "event by event, with the least power at that rate (powers are assumed)."
    )


#: Objectives besides frames a second, in words.
_OBJECTIVES = {
    "latency": "the latency of one frame alone",
    "energy": "the energy of a frame (powers are assumed)",
}


def _objective(name: str, record: Record) -> str:
    """Returns how close the front of a further objective comes to the best one."""
    found, reasons = record.objectives or {}, record.no_objectives or {}
    start = f"The search looked for {_OBJECTIVES[name]}, too"
    y = found.get(name)
    if y is None:
        return f"{start}. How close its front is to the best one is not known: {reasons[name]}."
    if y.kind == "model":
        return (
            f"{start}: the scored subnets have {y.share:.1%} of the hypervolume of the model's best front of score and "
            f"{name}; if the model's scores were all too low by its error, {y.low:.1%}. This is an estimate."
        )
    least = "" if y.kind == "exact" else "at least "
    return (
        f"{start}: the scored subnets have {least}{y.share:.2%} of the exact hypervolume of score and {name} (closed "
        "form)."
    )


def _yardstick(record: Record) -> str:
    """Returns how close the front comes to the best one."""
    y = record.yardstick
    if y is None:
        return f"How close the front is to the best one is not known: {record.no_yardstick}."
    if y.kind == "exact":
        return (
            f"Score and cycles (by the closed form) add up, so the exact front is known ({y.subnets:,} subnets): the "
            f"scored subnets have {y.share:.2%} of the exact hypervolume."
        )
    if y.kind == "bound":
        return (
            f"Score and cycles (by the closed form) add up, so a bound of the front is known: the scored subnets have "
            f"at least {y.share:.2%} of the exact hypervolume."
        )
    assert y.low is not None
    return (
        f"No exact front is known for a supernet's scores. The scored subnets have {y.share:.1%} of the hypervolume "
        f"that the best front of a smooth model of the scores has; if the model's scores were all too low by its "
        f"error, {y.low:.1%}. This is an estimate, not a bound."
    )


def _supernet(images: Images, record: Record, gptq: bool) -> list[str]:
    test = "were read for the finalists" if images.test_images_read else "were not read"
    codes = "with GPTQ's codes where these are better" if gptq else "with their trained codes"
    lines = [
        f"Scores are top-1 of the supernet's slices, each with a range of the residual stream from {images.calibration}"
        ". " + " ".join(f"{r.subnets:,} subnets: {r.score}." for r in record.rounds),
        f"Data: {images.data}. Search: {images.search}; finalists, {codes}, on the integer "
        f"engine: {images.finalists}. Test images {test}. The front's scores are the best of many and a little "
        "flattering for that; the integer figures are on other images.",
    ]
    if record.predictor is not None:
        lines.append(_predictor(record.predictor))
    return lines + [_correlation(one) for one in record.correlations or ()]


def _predictor(fit: PredictorFit) -> str:
    tau = "not defined" if fit.tau_b is None else f"{fit.tau_b:.2f}"
    return (
        f"A smooth model of the scores so far chose what was scored next: Kendall's tau-b {tau} between its "
        f"predictions, {fit.validation}, and the {fit.samples} scores; root mean squared error {fit.rmse:.3g}."
    )


def _correlation(c: Correlation) -> str:
    start = f"Kendall's tau-b between the supernet's scores and {c.against}"
    if c.tau_b is None:
        return f"{start}: not defined, all scores are equal."
    return (
        f"{start} ({c.images}): {c.tau_b:.2f}, "
        f"{c.confidence:.0%} interval {c.low:.2f} to {c.high:.2f}, over "
        f"{c.subnets} subnets ({c.finalists} finalists, the others sampled at random)."
    )
