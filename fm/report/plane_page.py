"""OUT/report.html and OUT/report/*.png of `fm demo2d`: two paths side by side, every word about them from a number."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm.files import atomic, write_text
from fm.noise import draws
from fm.paths import Path as ProbabilityPath
from fm.report import page, plane, plane_figures
from fm.report.plane import Section, Trained
from fm.results import csv_table, number


def write_page(
    out: Path, sections: Sequence[Section], settings: Mapping[str, Any], commands: Sequence[tuple[str, str]]
) -> list[Path]:
    """Writes OUT/report.html (self-contained) and its pictures and table into OUT/report; returns them, page first."""
    paths = {t.name: t.path for t in sections[0].trained}
    shown = {"conditional-fields": plane_figures.fields(paths)}
    shown["conditional-paths"] = plane_figures.conditional_paths(paths, plane.noises())
    for section in sections:
        shown |= {f"{section.name}-{name}": png for name, png in _pictures(section).items()}
    files = [out / "report.html", out / "report" / "table.csv"]
    for name, png in shown.items():
        files.append(out / "report" / f"{name}.png")
        with atomic(files[-1]) as file:
            file.write(png)
    write_text(files[1], csv_table([row for section in sections for t in section.trained for row in t.rows]))
    write_text(files[0], _page(sections, paths, shown, settings, commands))
    return files


def _pictures(section: Section) -> dict[str, bytes]:
    truth = plane_figures.histogram(section.true)
    densities = {}
    for t in section.trained:
        densities[f"{t.name}\nlearned"] = t.densities
        densities[f"{t.name}\nexact"] = _marginals(t.path, section.true[: t.densities.shape[1]], section.times)
    return {
        "trajectories": plane_figures.learned_paths({t.name: t.states for t in section.trained}, truth),
        "densities": plane_figures.densities(densities, section.times, truth),
        "samples": plane_figures.samples({t.name: t.samples for t in section.trained}, section.true),
        "distances": plane_figures.distances([row for t in section.trained for row in t.rows]),
    }


def _marginals(path: ProbabilityPath, true: Tensor, times: Sequence[float]) -> Tensor:
    """Points of p_t, made of true points and noise, at each time."""
    z = draws(0, "marginal", torch.arange(len(true)), (2,))
    return torch.stack([path.sample(z, true, torch.tensor(min(t, path.t_max))).x_t for t in times])


def _page(
    sections: Sequence[Section],
    paths: Mapping[str, ProbabilityPath],
    shown: Mapping[str, bytes],
    settings: Mapping[str, Any],
    commands: Sequence[tuple[str, str]],
) -> str:
    title = "Flow matching in the plane: " + " against ".join(paths)
    body = [
        f"<h1>{escape(title)}</h1>",
        "<p class=soft>The same network, data order and noise on each path, after Figures 2 to 4 of Lipman et al. 2023."
        " t = 0 is noise, t = 1 is data. Every figure in the text is computed from what is shown.</p>",
        "<h2>The paths, before any training</h2>",
        page.figure(
            (shown["conditional-fields"], "Conditional vector fields towards one data point at four times"),
            plane.of_fields(paths),
        ),
        page.figure(
            (shown["conditional-paths"], "Conditional trajectories from several noises to one data point"),
            plane.of_conditional_paths(paths),
        ),
    ]
    for section in sections:
        body += _section(section, shown)
    lineage = {t.run: _lineage(t) for section in sections for t in section.trained}
    body += page.try_next(commands, {})
    body += ["<h2>How it was made</h2>", page.details("Settings", settings)]
    return page.document(title, [*body, page.details("Where each number comes from", lineage)])


def _section(section: Section, shown: Mapping[str, bytes]) -> list[str]:
    def picture(name: str, words: str, caption: str) -> str:
        return page.figure((shown[f"{section.name}-{name}"], f"{section.name}: {words}"), caption)

    distance, bits = plane.tables(section)
    return [
        f"<h2>{escape(section.name.replace('_', ' ').capitalize())}</h2>",
        f"<div class=cards>{''.join(_cards(section))}</div>",
        picture("samples", "points drawn with few evaluations, beside true points", plane.of_samples(section)),
        picture("trajectories", "trajectories of the trained networks", plane.of_trajectories(section)),
        picture("densities", "densities at several times, learned and exact", plane.of_densities(section)),
        "<h3>Distance to true points</h3>",
        picture("distances", "energy distance against evaluations, see the table", plane.of_distances(section)),
        page.html_table(distance),
        "<h3>Likelihood of held-out points</h3>",
        page.html_table(bits),
        f"<p class=soft>{escape(plane.of_bits(section))}</p>",
    ]


def _cards(section: Section) -> list[str]:
    few = min(section.trained[0].samples)

    def compared(values: Sequence[str], name: str, note: str) -> str:
        parts = [f"{t.name} {value}" for t, value in zip(section.trained, values, strict=True)]
        return page.card(parts[0], name, "; ".join([*parts[1:], note]))

    bits = [f"{r['bits_excess']:.3f}" if r["nll_converged"] else "none" for r in (t.exact for t in section.trained)]
    floor = number(section.trained[0].rows[0]["energy_floor"])
    return [
        compared(
            [number(t.at(few)["energy"]) for t in section.trained],
            f"energy distance at NFE {few}",
            f"floor {floor}",
        ),
        compared(
            [f"{t.numbers['straightness']:.2f}" for t in section.trained],
            "learned path length over chord (median)",
            "straight 1",
        ),
        compared(bits, "bits/dim above the true density", "exact 0"),
    ]


def _lineage(trained: Trained) -> dict[str, Any]:
    names = ("weights", "data", "recipe", "images_seen", "code", "seed")
    return {name: trained.exact[name] for name in names} | {"seconds of training": round(trained.seconds)}
