from tatara.data.funnel import Funnel, align


def test_shards_add_up_whatever_their_order_and_number() -> None:
    def shard(numbers: range) -> Funnel:
        funnel = Funnel(keep=2)
        for i in numbers:
            funnel.documents += 1
            funnel.bytes += 10
            if i % 2:
                funnel.drop("length.min_characters", 10, f"doc{i}", i, "text")
        return funnel

    whole, parts, backwards = Funnel(2), Funnel(2), Funnel(2)
    whole.add(shard(range(20)))
    for part in (range(7), range(7, 20)):
        parts.add(shard(part))
    for part in (range(7, 20), range(7)):
        backwards.add(shard(part))
    assert whole.literals() == parts.literals() == backwards.literals()
    assert whole.samples == parts.samples == backwards.samples
    assert len(whole.samples["length.min_characters"]) == 2


def test_stages_go_down_from_what_was_read_to_what_is_kept() -> None:
    funnel = Funnel(keep=1, documents=10, bytes=1000)
    funnel.count("length.min_characters", 2, 20)
    funnel.count("gopher_quality.min_words", 3, 300)
    funnel.count("dedup.exact", 1, 100)
    funnel.count("unreadable", 5, 50)
    left = {stage["name"]: (stage["documents"], stage["bytes"]) for stage in funnel.stages()}
    assert left["read"] == (10, 1000)
    assert left["length"] == (8, 980)
    assert left["gopher_quality"] == left["gopher_repetition"] == (5, 680)
    assert left["dedup.exact"] == left["dedup.fuzzy"] == (4, 580)
    table = funnel.table()
    assert "- gopher_quality.min_words" in table
    assert "set aside as unreadable" in table
    assert [row["reason"] for row in funnel.literals()["dropped"]][:2] == ["unreadable", "gopher_quality.min_words"]


def test_columns_line_up() -> None:
    assert align([("step", "n"), ("a", "1,000")]) == "step      n\na     1,000"
