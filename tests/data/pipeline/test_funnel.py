import itertools

from tatara.data.document import Document, Verdict
from tatara.data.pipeline.config import CurateConfig
from tatara.data.pipeline.funnel import Funnel
from tatara.data.pipeline.pictures import pictures
from tatara.data.pipeline.planning import plan_steps

STEPS = plan_steps(CurateConfig(pipeline=["length", "exact_dedup", "length"]).pipeline)


def shard(first: int, last: int) -> Funnel:
    funnel = Funnel(2)
    left = size = 0
    for number in range(first, last):
        document = Document(f"d{number}", "x" * number, "s", language="en")
        funnel.documents += 1
        funnel.bytes += number
        if number % 3 == 0:
            funnel.drop(0, Verdict("length.min_characters", number, 100), document, number)
            continue
        if number % 5 == 0:
            verdict = Verdict("exact_dedup.text", 1.0, kept_id=f"d{number + 1}", cluster=f"c{number + 1}")
            funnel.drop(1, verdict, document, number)
            continue
        document.cluster, document.copies = f"c{number}", 2
        funnel.keeps(document)
        left, size = left + 1, size + number
    funnel.passed(2, left, size)
    return funnel


def test_the_sum_does_not_depend_on_shards() -> None:
    whole = shard(0, 60)
    for cuts in ([0, 60], [0, 7, 60], [0, 20, 21, 40, 60], [*range(0, 60, 5), 60]):
        parts = [shard(a, b) for a, b in itertools.pairwise(cuts)]
        for order in (parts, parts[::-1]):
            total = Funnel(2)
            for part in order:
                total.add(part)
            assert total.literals(STEPS) == whole.literals(STEPS)
            assert total.samples == whole.samples
            assert total.clusters == whole.clusters
            assert pictures(total, {}, {}) == pictures(whole, {}, {})


def test_samples_and_clusters_are_few_and_say_what_was_measured() -> None:
    funnel = shard(0, 60)
    samples = funnel.samples[0, "length.min_characters"]
    assert len(samples) == 2
    assert all(sample["limit"] == 100 and sample["value"] % 3 == 0 for sample in samples)
    assert len(funnel.clusters) == 2


def test_the_table_names_steps_and_reasons() -> None:
    table = shard(0, 60).table(STEPS)
    for word in ("read", "length#2", "- length.min_characters", "- exact_dedup.text"):
        assert word in table


def test_pictures_show_lengths_and_clusters_side_by_side() -> None:
    shown = pictures(shard(0, 200), {"mix": {"table": {"title": "t"}}}, {})
    assert shown["table"] == [{"title": "t"}]
    lengths = shown["histograms"][1]["bars"]
    assert sum(bar["value"] for bar in lengths) == shown["histograms"][0]["bars"][0]["value"]
    assert shown["duplicate_clusters"]["sizes"] == [{"label": "2", "value": sum(bar["value"] for bar in lengths)}]
    for example in shown["duplicate_clusters"]["examples"]:
        assert example["kept"]["id"] == example["removed"][0]["kept_id"]
