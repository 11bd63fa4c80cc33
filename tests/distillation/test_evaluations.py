"""Evaluations over several sets: what is pooled, what each set cost, which is best."""

from bilevel_distillation import Accuracies
from bilevel_distillation._judging import Cost, Evaluation, OfSet


def of(path, distilled, held_out, subset=None):
    cost = Cost.of({"seconds": 12.4, "processor_seconds": 20, "peak_memory": 3e8, "ipc": 1})
    return Evaluation(
        "convnet", "none", Accuracies(distilled, subset), judge="paper", select=True,
        sets=(OfSet(path, distilled, held_out, cost),),
    )  # fmt: skip


def test_networks_of_all_sets_are_pooled_and_the_best_is_by_held_out_images():
    one = of("one", (0.9, 0.8), (0.5, 0.6), (0.25,))
    found = Evaluation.over([one, of("other", (0.1, 0.2), (0.9, 0.4), (0.5,))])
    assert found.accuracies == Accuracies((0.9, 0.8, 0.1, 0.2), (0.25, 0.5))
    assert found.best is not None and found.best.path == "other"  # by test images it is "one"
    assert found.to_json() == {
        "network": "convnet", "norm": "none", "judge": "paper", "select": True,
        "distilled": [0.9, 0.8, 0.1, 0.2], "random_subset": [0.25, 0.5],
    }  # fmt: skip
    assert of("one", (0.5,), None).best is None
    assert Evaluation.over([of("a", (0.5,), None)] * 2).accuracies.random_subset is None


def test_a_cost_is_what_the_set_says_of_it():
    cost = of("one", (0.5,), None).sets[0].cost
    assert str(cost) == "12 s, 20 s of processors, 300 MB"
    assert cost is not None and cost.to_json()["peak_memory"] == 3e8
    assert Cost.of({"seconds": "long", "peak_memory": None, "processor_seconds": True}) is None
    assert str(Cost.of({"seconds": 1.6})) == "2 s"
