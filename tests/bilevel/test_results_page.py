"""The page of results: what was measured is on it, what was not is said."""

import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def results():
    sys.path.insert(0, str(DOCS))  # as for a script
    spec = spec_from_file_location("results_page", DOCS / "results.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(DOCS))
    return module


CPU = {"device": "cpu", "cores": 2}
ATTACKERS = ("threshold", "logistic_regression", "mlp", "random_forest", "nearest_neighbours")
ONE = {"test_accuracy": 0.9, "auc": dict.fromkeys(ATTACKERS, 0.625)}
MEASURED = {
    "reproduce": {"machine": {"device": "H", "cores": 1}, "rows": {
        "cifar10/1": {
            "settings": {"width": 128, "precision": "float32"}, "seconds an iteration": 0.0125,
            "iterations": 4321, "minutes": 10.2, "random subset, %": 20.26,
            "paper, %": 53.9, "minutes to the paper's": 7.77,
            "runs": {"0": {"accuracies": [0.538, 0.526]}}},
        "mnist/1": {
            "settings": {"width": 32}, "seconds an iteration": 0.01, "iterations": 99,
            "minutes": 3.0, "random subset, %": 60.0,
            "runs": {"0": {"accuracies": [0.89], "by the wide judge": [0.905]},
                     "1": {"accuracies": [0.91], "by the wide judge": [0.915]}},
            "paper, %": 94.7, "minutes to the paper's": float("nan"), "processor minutes": 5.6,
            "command": "python benchmarks/reproduce.py --rows mnist/1",
            "by the wide judge": {"width": 128}}}},
    "gpu_speed": {"machine": {"device": "H"}, "cifar10/1": {
        "program": {"compilation, s": 31.2, "predicted, bytes": 2.5e9}, "peak, bytes": 3.25e9,
        "ways": {"exact, float32": {"seconds": 0.0525, "first call, s": 1.5,
                                    "times as fast as the transcription": 3.14,
                                    "share of a product's rate": 0.414},
                 "transcription, float32": {"seconds": 0.165, "first call, s": 20.0}}}},
    "gpu_accuracy": {"machine": {"device": "H"}, "cifar10/1": {
        "accuracies": [0.5, 0.52], "authors": [0.522], "seconds": 151.0, "iterations": 2345,
        "curve": [[1, 30.1, 0.11], [100, 60.2, 0.443]]}},
    "gpu_right": {"machine": {"device": "H"},
                  "meta_gradient": {"20": {"rows": [
                      ["exact", "tensorfloat32", 8.1e-4, 7e-4, "5 + 5", "as asked for"]]}},
                  "toolkit": {"rows": [
                      ["ridge", "bfloat16", 1e-3, 0.0021, 9e-4, 0.0012, 20, "as asked for"]]}},
    "gpu_peers": {"machine": {"device": "H"}, "peers": {"results": [
        {"problem": "ridge", "parameters": 10_000_000, "rows": [
            {"contestant": "bilevel, jit", "milliseconds": 1.25, "ratio": 1.0, "error": 9e-4},
            {"contestant": "jaxopt", "milliseconds": 1.5, "ratio": 1.2, "error": 9e-4}]},
        {"problem": "network", "failed": "no minimum", "rows": []}]}},
    "attack_mnist500": {"settings": {"members": 10000}, "distilled": [ONE, ONE],
                        "random_subset": [ONE], "real_data": [ONE]},
    "networks_cifar10": {"settings": {"width": 128}, "rows": [
        {"network": "resnet18", "norm": "batch", "distilled": [0.4, 0.5], "random_subset": [0.3]},
        {"network": "vgg11", "norm": "layer", "distilled": [0.25], "random_subset": [0.125]}]},
    "steps": {"settings": {"counts": [0, 2], "load": 3.3}, "columns": [], "rows": {
        "Adam 0 + 0": [0.25, 0.5, 0.6], "Adam 0 + 2": [0.26, 0.5, 0.6],
        "Adam 2 + 0": [0.27, 0.5, 0.6], "Adam 2 + 2": [0.28, 1.2e-4, 0.6],
        "CG 2 + 2": [0.11, 0.07, 0.1]}, "accuracies": {"Adam 2 + 2": 71.26}},
    "subsampling": {
        "memory": {"settings": {"n": 5000}, "columns": ["way", "10^9 bytes"],
                   "rows": [["full", 26.66]]},
        "distillation": {"settings": {"width": 8}, "columns": [], "rows": [[200, 1.5, 9.9, 0.3]]}},
    "scaling": {"machine": CPU, "directions": {
        "batch": {"others": {}, "columns": ["seconds", "10^9 operations"],
                  "rows": [[64, [0.5, 10.0]], [1024, [4.5, 160.0]]],
                  "exponents": {"seconds": 0.97, "10^9 operations": 1.0}}}},
    "preconditioners": {"results": [
        {"problem": "net", "preconditioner": "K-FAC", "steps": 131,
         "time, in that of the fastest": 0.625},
        {"problem": "net", "preconditioner": "Nystrom(60)", "steps": None}]},
    "fuzz": {"units": {"1": {by: {
        "LBFGS": {"right": 1200, "said": 34, "silently wrong": 0},
        "all": {"right": 1200, "said": 34, "silently wrong": 0}} for by in ("solver", "inverse")}}},
    "fuzz_units": {"units": {"1": {}, "1e-08": {
        "moved": {"right -> said": 2},
        "solver": {"all": {"right": 1, "said": 2, "silently wrong": 0}}}}},
    "accuracy_over_time": {"machine": CPU, "records": [
        {"variant": "A", "seed": s, "points": [
            {"seconds": t, "accuracies": [a + 0.01 * s]} for t, a in ((0.0, 0.5), (300.6, 0.75))
        ]} for s in (0, 1)]},
}  # fmt: skip


def page_of(results, folder, **held):
    for name, payload in held.items():
        (folder / f"{name}.json").write_text(json.dumps(payload))
    return results.page(results.reader(folder))


def rows(page):
    """The cells of each line of each table."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_nothing_measured_is_said_in_every_table_and_the_paper_stays(results, tmp_path):
    page = page_of(results, tmp_path)
    found = rows(page)
    assert ["CIFAR-10, 1", "not measured", "–", "53.9 ± 1.0", "–", "–", "–", "–"] in found
    assert ["CIFAR-10, 50", "not measured", "–", "–", "–", "2.94", "–"] in found
    assert ["threshold", "not measured", "0.49 ± 0.00", "–", "0.52 ± 0.00", "–",
            "0.99 ± 0.01"] in found  # fmt: skip
    for part in page.split("\n## ")[1:]:
        assert "not measured" in part.lower(), part


def test_what_was_measured_is_beside_the_papers(results, tmp_path):
    page = page_of(results, tmp_path, **MEASURED)
    found = rows(page)
    for row in [
        [
            "CIFAR-10, 1",
            "53.2 ± 0.6",
            "53.2 ± 0.6",
            "53.9 ± 1.0",
            "20.3",
            "10",
            "–",
            "width 128, precision float32, networks 2",
        ],
        [
            "MNIST, 1",
            "90.0 ± 1.0",
            "91.0 ± 0.5",
            "94.7 ± 0.5",
            "60.0",
            "3",
            "6",
            "width 32, networks 2",
        ],
        ["CIFAR-10, 1", "exact, float32", "0.0525", "1.5", "3.1", "0.18", "41 %"],
        ["", "transcription, float32", "0.165", "20", "–", "–", "–"],
        ["CIFAR-10, 1", "31.2", "2.5", "3.25"],
        ["CIFAR-10, 1", "51.0 ± 1.0", "53.9 ± 1.0", "151", "2,345", "52.2", "–"],
        ["one network", "11.0", "44.3"],
        ["20", "exact", "tensorfloat32", "8.1e-4", "7.0e-4", "5 + 5"],
        ["ridge", "bfloat16", "1e-3", "2.1e-3", "9.0e-4", "1.2e-3"],
        ["ridge", "10,000,000", "1.25", "9.0e-4", "1.20", "–"],
        ["CIFAR-10, 1", "0.013", "0.18", "4,321", "15,000", "7.8", "45"],
        ["MNIST, 1", "0.01", "0.16", "99", "15,000", "not reached", "40"],
        ["threshold", "0.62 ± 0.00", "0.49 ± 0.00", "0.62", "0.52 ± 0.00", "0.62", "0.99 ± 0.01"],
        ["resnet18", "batch", "45.0 ± 5.0", "30.0", "49.7 ± 1.4", "54.8 ± 1.1"],
        ["vgg11", "layer", "25.0", "12.5", "–", "–"],
        ["2 inner", "0.27", "0.28"],
        ["CG 2 + 2", "0.11", "0.07", "–"],
        ["2 inner", "0.5", "1.2e-4"],
        ["2 inner", "–", "71.3"],
        ["200", "9.9 ± 0.3", "1.5", "45.9 ± 0.4", "10.0"],
        ["full", "26.7"],
        ["batch", "64 to 1,024", "0.5 to 4.5", "0.97", "1.00"],
        ["LBFGS", "1,200", "34", "0"],
        ["times 1e-08", "2", "0"],
        ["A", "75.5 ± 0.5"],
        ["", "300 s"],
    ]:
        assert row in found, row
    assert "reproduce.py --rows mnist/1\n```" in page
    assert ", on H;" in page and "load 3.3" not in page and "nan" not in page


def test_every_table_is_whole_and_narrow(results, tmp_path):
    for page in (page_of(results, tmp_path, **MEASURED), (DOCS / "results.md").read_text()):
        for table in re.findall(r"(?:^\|.*\n)+", page, re.M):
            widths = {line.count("|") for line in table.splitlines()}
            assert len(widths) == 1 and max(widths) <= 9, table


def test_a_page_that_is_out_of_date_is_told(results, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["results.py"])
    results.main()
    monkeypatch.setattr(sys, "argv", ["results.py", "--check"])
    results.main()
    (tmp_path / "scaling.json").write_text(json.dumps(MEASURED["scaling"]))
    with pytest.raises(SystemExit, match="not what benchmarks/results gives: run python"):
        results.main()


def test_a_whole_problem_that_the_others_failed_at_is_shown(results):
    row = {"seconds": 9.0, "compiling": 1.0, "measures": {}}
    rows = {"minimize": row | {"curve": [[2.0, 0.5]]}, "other": row | {"curve": [], "failed": "no"}}
    found = {"problems": {"network": rows}}
    text = results.page({"whole_problems": found}.get)
    assert "| minimize | 2 |" in text and "| other | failed |" in text
    assert "The lowest of the others" not in text
    rows["other"]["curve"] = [[8.0, 0.6]]
    assert "`minimize` was there after 2 s" in results.page({"whole_problems": found}.get)
