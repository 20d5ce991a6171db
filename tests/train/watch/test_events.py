"""Events from the trainer to the driver."""

from tatara.train.watch.events import EventReader, EventWriter


def test_a_reader_gets_each_event_once(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert reader.read() == []
    writer = EventWriter(path)
    writer.write("step", step=1, loss=2.5)
    assert [(event["kind"], event["step"], event["loss"]) for event in reader.read()] == [("step", 1, 2.5)]
    assert reader.read() == []
    writer.write("step", step=2)
    writer.write("step", step=3)
    assert [event["step"] for event in reader.read()] == [2, 3]


def test_a_torn_line_is_waited_for_and_then_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "st')
    reader = EventReader(path)
    assert [event["step"] for event in reader.read()] == [1]
    writer = EventWriter(path)
    writer.write("resumed", step=0)
    assert [event["kind"] for event in reader.read()] == ["resumed"]
    assert [event["kind"] for event in EventReader(path).read()] == ["step", "resumed"]
