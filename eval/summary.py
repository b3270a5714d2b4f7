"""The README's table of figures, from eval/results: `python eval/summary.py`."""

from __future__ import annotations

import json
from typing import Any

from common import RESULTS

#: Of a full row of the classification table.
_SEEDS = 5


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["result"]


def detection_rows() -> list[str]:
    names = {
        "mtd": "MTD, official split (761 normals; 191 good, 392 defective)",
        "leather": "leather (96 normals; 32 good, 91 defective)",
    }
    rows = [
        "| data | backbone | image AUROC | pixel AUROC | AUPRO | fit | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in result("detection").items():
        data, _, backbone = key.partition("_")
        m, fit = row["metrics"], row["fit"]
        peak = max(row[step]["peak_gib"] for step in ("fit", "predict", "evaluate"))
        rows.append(
            f"| {names[data]} | {backbone} | {m['image_auroc']:.3f} | {m['pixel_auroc']:.3f} | {m['aupro']:.3f} "
            f"| {fit['seconds']:.0f} s | {peak:.1f} GiB |"
        )
    return rows


def musc_rows() -> list[str]:
    """MuSc, which is given no normal image, beside PatchCore, which is given 761; and how it grows."""
    found = result("musc")
    rows = [
        "| MTD, 583 test images | backbone | image AUROC | pixel AUROC | AUPRO | seconds | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    tables = [
        ("MuSc, no normal images", name, found[name]["metrics"] | found[name]) for name in ("vit_tiny", "embedded")
    ]
    for name, row in found["patchcore"].items():
        tables.append(("PatchCore, 761 normal images", name, row | {"seconds": row["fit_seconds"]}))
    for method, backbone, m in tables:
        rows.append(
            f"| {method} | {backbone} | {m['image_auroc']:.3f} | {m['pixel_auroc']:.3f} | {m['aupro']:.3f} "
            f"| {m['seconds']:.0f} | {m['peak_gib']:.1f} GiB |"
        )
    counts = ", ".join(f"{row['n']} images {row['seconds']:.0f} s" for row in found["growth"]["rows"])
    one, exponent = found["reference"]["unlabelled"], found["growth"]["exponents"]["pair_seconds"]
    rows += ["", f"Growth: {counts}; the pairs alone as N to the power {exponent:.2f}."]
    rows += [f"One image against {one['n_reference']} kept ones: {1e3 * one['seconds_per_image']:.0f} ms."]
    return rows + [f"Share of the machine's product rate: {found['vit_tiny']['share_of_limit']:.0%}."]


def speed_rows() -> list[str]:
    coreset, predict, metrics, app = (result(name) for name in ("coreset", "predict", "metrics", "app"))
    narrow, full, speed = coreset["projected_128"], coreset["full_384"], metrics["speed"]
    growth = ", ".join(f"{row['n'] // 1000}k {row['seconds']:.1f} s" for row in coreset["growth"])
    exact = result("detection")["mtd_resnet18"]["exact_search"]
    mebin = result("mebin")["speed"][0]
    auto, error = predict["auto"], max(speed["ours"]["aupro_error"], speed["ours"]["ap_error"])
    rows = {
        f"coreset, {coreset['n']:,} patches to 10 %, against one distance update per pick": (
            f"{narrow['ratio']:.0f} times faster projected to 128, {full['ratio']:.0f} times at full width; same picks",
            "bench_coreset.py",
        ),
        "coreset, growth with the number of patches": (growth, "bench_coreset.py"),
        "one image, warm, bank of 10 % of 100 images": (
            f"{auto['ratio']:.2f} times the bare backbone: {auto['backbone_ms']:.1f} ms backbone, "
            f"{auto['preprocess_ms'] + auto['patches_ms']:.1f} image to patches, {auto['search_ms']:.1f} search, "
            f"{auto['map_ms']:.1f} map",
            "bench_predict.py",
        ),
        "image AUROC on MTD, default index against exact search": (
            f"{exact['image_auroc']:.4f} against {exact['image_auroc_exact']:.4f}",
            "bench_detection.py",
        ),
        f"all pixel metrics on {speed['maps']} maps of 256 x 256, against 200 thresholds in turn": (
            f"{speed['ratio']:.0f} times faster, exact within {error:.0e}",
            "bench_metrics.py",
        ),
        f"MEBin at {mebin['size']} x {mebin['size']}, one thread, against 64 erosions and labelings": (
            f"{mebin['ratio']:.0f} times faster, {mebin['ratio_full']:.0f} times the whole published loop; identical",
            "bench_mebin.py",
        ),
        **_synthesis_and_inspection(),
        "app: page shown, sample fitted, sample checked": (
            f"{app['page_seconds']:.0f} s, {app['fitted_seconds']:.0f} s, "
            f"{app['checked_seconds']:.0f} s after the start",
            "bench_app.py",
        ),
    }
    return ["| what | measured | command |", "|---|---|---|"] + [
        f"| {what} | {value} | `python eval/{script}` |" for what, (value, script) in rows.items()
    ]


def _synthesis_and_inspection() -> dict[str, tuple[str, str]]:
    drawing = {}
    for product in result("synthesis")["products"].values():
        for kind, row in product["drawing"].items():
            drawing[kind] = min(drawing.get(kind, 1e9), row["images_per_second"])
    ways = ", ".join(f"{kind} {rate:,.0f}" for kind, rate in drawing.items())
    chains = ", ".join(
        f"{name} {row['ratio']:.2f} ({row['defective']} of {row['images']} images named)"
        for name, row in result("inspect").items()
    )
    stores = result("stores")["ratio"]
    return {
        "synthetic defects of 256 x 256, images per second and core": (f"at least: {ways}", "bench_synthesis.py"),
        "inspect, warm, times the detector alone": (chains, "bench_inspect.py"),
        "1 GB in 4,022 files to a folder store and on the disk, times a plain copy": (
            f"push {stores['push']:.2f}, pull {stores['pull']:.2f}, an unchanged push {stores['push_again']:.2f}",
            "bench_stores.py",
        ),
    }


def alarm_rows() -> list[str]:
    rows = ["| data | backbone | chosen | real false alarms | escapes |", "|---|---|---|---|---|"]
    for key, row in result("detection").items():
        data, _, backbone = key.partition("_")
        for point in row["false_alarms"]:
            rows.append(
                f"| {data} | {backbone} | {point['chosen']:.0%} | {point['false_alarm_rate']:.1%} "
                f"| {point['escape_rate']:.1%} |"
            )
    return rows


def kinds_rows() -> list[str]:
    """Which kinds of defect, with ground-truth masks (an oracle of where) and through the whole chain."""
    masks, chain = result("discovery"), result("chain")
    rows = ["| regions | data | method | NMI | ARI | F1 | seconds |", "|---|---|---|---|---|---|---|"]
    tables = [
        ("ground-truth masks", name, masks.get(part, {}).get(name, {}))
        for name in ("mtd", "leather")
        for part in ("clustering", "ncd")
    ]
    tables += [(key.partition(", ")[2], key.partition(", ")[0], row) for key, row in chain.items() if ", " in key]
    for regions, data, table in tables:
        for method, row in table.items():
            if isinstance(row, dict) and "nmi" in row:
                figures = " | ".join(f"{row[key]:.3f}" for key in ("nmi", "ari", "f1"))
                rows.append(f"| {regions} | {data} | {method} | {figures} | {row['seconds']:.0f} |")
    return rows


def inductive_rows() -> list[str]:
    rows = ["| method | NMI, ARI, F1 of the half that was fitted | of the other half |", "|---|---|---|"]
    for method, halves in result("discovery").get("inductive", {}).items():
        if method != "measured":
            cells = [", ".join(f"{half[key]:.3f}" for key in ("nmi", "ari", "f1")) for half in halves.values()]
            rows.append(f"| {method} | {' | '.join(cells)} |")
    return rows


def auto_rows() -> list[str]:
    rows = ["| data | kinds | auto, three seeds |", "|---|---|---|"]
    for data, row in result("discovery").get("auto", {}).items():
        if data != "measured":
            found = "; ".join(
                f"{name} {', '.join(map(str, counts))}" for name, counts in row.items() if name != "classes"
            )
            rows.append(f"| {data} | {row['classes']} | {found} |")
    return rows


def fewshot_rows() -> list[str]:
    """Image AUROC on MTD by the number of normal images, mean and deviation over ten support sets."""
    found = result("fewshot")
    shots = list(found["shots"])
    head = " | ".join(f"{count} images" for count in shots)
    rows = [f"| method | {head} | one image |", "|---|" + "---|" * (len(shots) + 1)]
    for method in found["shots"][shots[0]]:
        figures = (found["shots"][count][method]["image_auroc"] for count in shots)
        cells = " | ".join(f"{figure['mean']:.3f} ± {figure['std']:.3f}" for figure in figures)
        rows.append(f"| {method} | {cells} | {found['speed'][method]['milliseconds_per_image']:.0f} ms |")
    return rows


def classification_rows() -> list[str]:
    """Accuracy (%) by the number of examples per class, mean and deviation over seeds; and unknown kinds."""
    found = result("classification")
    shots = sorted({count for row in found["table"] for count in row["shots"]})
    head = " | ".join(f"{count} shot{'s' if count != '1' else ''}" for count in shots)
    rows = [f"| data | head | residuals | pretraining | {head} |", "|---|---|---|---|" + "---|" * len(shots)]
    for row in found["table"]:
        name = row["head"] + (", true masks (oracle)" if row["masks"] == "ground-truth" else "")
        options = [
            "–" if row["head"] == "direct" else "yes" if row[key] else "no" for key in ("residual", "pretrained")
        ]
        cells = [_accuracy(row["shots"].get(count)) for count in shots]
        rows.append(f"| {' | '.join([row['data'], name, *options, *cells])} |")
    for name, row in found["data"].items():
        rows += ["", f"{name}: chance is {row['chance']:.1f} %, the largest class {row['largest_class']:.1f} %."]
    for name, row in found["unknown"].items():
        auroc, called, falsely = (row[key] for key in ("auroc", "called_unknown", "falsely_unknown"))
        rows += [
            f"{name}, a class without an example, {row['shots']} shots of the others, {row['head']}: AUROC "
            f"{auroc['mean']:.3f} ± {auroc['std'] or 0:.3f}, {called:.0%} called unknown, {falsely:.0%} of the others."
        ]
    return rows


def _accuracy(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    count = len(figure["values"])
    partly = f" ({count} seed{'s' * (count > 1)})" if count < _SEEDS else ""
    return f"{figure['mean']:.1f}" + (f" ± {figure['std']:.1f}" if figure["std"] is not None else "") + partly


def backbone_rows() -> list[str]:
    """The model card of the embedded backbone: size, speed, detection, separability."""
    found, detection = result("backbone"), result("detection")
    own, other = "bench_backbone.py", "bench_detection.py"
    millions = {name: f"{count / 1e6:.2f} M" for name, count in found["parameters"].items()}
    rows = [
        ("parameters", millions["embedded"], f"ViT-Tiny {millions['vit_tiny']}", "", own),
        ("import and load, beyond torch's import", f"{found['start']['import_and_load_seconds']:.2f} s", "", "", own),
    ]
    for mine, theirs, title in (
        ("embedded maps", "resnet18 maps", "ResNet-18"),
        ("embedded blocks", "vit_tiny blocks", "ViT-Tiny"),
        ("embedded all", "vit_tiny blocks", "ViT-Tiny"),
    ):
        one, two = found["passes"][mine], found["passes"][theirs]
        gain, what = f"{two['ms'] / one['ms']:.2f} times faster", mine.partition(" ")[2]
        rows.append((f"forward pass, {what}", f"{one['ms']:.1f} ms", f"{title} {two['ms']:.1f} ms", gain, own))
        rows.append((f"multiply-adds, {what}", f"{one['gmac']:.2f} G", f"{title} {two['gmac']:.2f} G", "", own))
    for name in ("mtd", "leather"):
        pair = [detection[f"{name}_{key}"]["metrics"]["image_auroc"] for key in ("embedded", "resnet18")]
        rows.append((f"PatchCore, image AUROC, {name}", *_auroc(*pair), other))
    for product, row in found["bundled_sample"].items():
        pair = [row[key]["image_auroc"] for key in ("embedded", "resnet18")]
        rows.append((f"PatchCore, image AUROC, {product} of the bundled sample", *_auroc(*pair), own))
    for name, row in found["separability"].items():
        mine, theirs = row["embedded"]["accuracy"], row["vit_tiny"]["accuracy"]
        what = f"nearest class mean, 5 shots, {row['defects']} defects of {name}"
        rows.append((what, f"{mine:.1f} %", f"ViT-Tiny {theirs:.1f} %", f"{mine - theirs:+.1f} points", own))
    head = ["| what | `embedded` | teacher | difference | command |", "|---|---|---|---|---|"]
    return head + [f"| {' | '.join(cells)} | `python eval/{script}` |" for *cells, script in rows]


def depth_rows() -> list[str]:
    """The model card's second table: which of the ViT's blocks tells defects apart."""
    found = result("backbone")["depths"]
    rows = ["| data | network | right, by the class token after block |", "|---|---|---|"]
    for key, row in found.items():
        data, _, network = key.partition("_")
        values = ", ".join(f"{block}: {value:.1f} %" for block, value in row.items() if block != "last")
        rows.append(f"| {data} | {network} | {values}; after the last norm: {row['last']:.1f} % |")
    return rows


def _auroc(mine: float, theirs: float) -> tuple[str, str, str]:
    return f"{mine:.3f}", f"ResNet-18 {theirs:.3f}", f"{mine - theirs:+.3f}"


def main() -> None:
    print("\n".join(detection_rows()), "\n".join(speed_rows()), "\n".join(alarm_rows()), sep="\n\n")
    print("", "\n".join(kinds_rows()), "", "\n".join(inductive_rows()), "", "\n".join(auto_rows()), sep="\n")
    print("", "\n".join(musc_rows()), sep="\n")
    print("", "\n".join(fewshot_rows()), sep="\n")
    print("", "\n".join(classification_rows()), sep="\n")
    print("", "\n".join(backbone_rows()), "", "\n".join(depth_rows()), sep="\n")


if __name__ == "__main__":
    main()
