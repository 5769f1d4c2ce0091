"""Hearing, notes: what the chapters 15 do not show about themselves."""
import io
import json

import house
import mido
import numpy as np
import pytest
from omr.core import InputError
from omr.listening.beats import find_beats, notes_to_musicxml, places_to_kern, quantise
from omr.listening.note_scores import match, piece_scores
from omr.listening.notes import from_roll, midi_to_notes, note_array, notes_to_midi, read_midi, to_roll
from omr.scores.score import read_score

FROZEN = json.loads((house.ROOT / "tests/fixtures/note_scores.json").read_text())


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_scores(name):
    case = FROZEN[name]
    found = piece_scores(note_array(case["truth"]), note_array(case["found"]))
    assert found == pytest.approx(case["scores"], abs=1e-9)


def midi(*messages, ticks=480):
    file, out = mido.MidiFile(ticks_per_beat=ticks), io.BytesIO()
    file.tracks.append(mido.MidiTrack(messages))
    file.save(file=out)
    return out.getvalue()


def key(kind, pitch, time, velocity=64, channel=0): return mido.Message(f"note_{kind}", note=pitch, velocity=velocity, time=time, channel=channel)
def pedal(value, time): return mido.Message("control_change", control=64, value=value, time=time)


def test_running_status():
    "Key downs without their first byte, the second with velocity 0."
    track = bytes([0x00, 0x90, 60, 80, 0x60, 60, 0, 0x00, 64, 80, 0x60, 64, 0, 0x00, 0xFF, 0x2F, 0x00])
    data = b"MThd" + bytes([0, 0, 0, 6, 0, 0, 0, 1, 0, 96]) + b"MTrk" + len(track).to_bytes(4, "big") + track
    assert midi_to_notes(data).tolist() == [(0, 0.5, 60, 80), (0.5, 1, 64, 80)]


@pytest.mark.parametrize("value, end", [(63, 0.5), (64, 1.0), (127, 1.0)])
def test_pedal_threshold(value, end):
    data = midi(pedal(value, 0), key("on", 60, 0), key("off", 60, 480), pedal(0, 480))
    assert midi_to_notes(data)["offset"].tolist() == [end]
    assert midi_to_notes(data, pedal=False)["offset"].tolist() == [0.5]


def test_pedal_never_up_and_other_channels():
    data = midi(pedal(127, 0), key("on", 60, 0), key("off", 60, 480), key("on", 62, 0, channel=1), key("off", 62, 480, channel=1), pedal(127, 480))
    problems = []
    assert midi_to_notes(data, problems=problems)["offset"].tolist() == [1.5, 1.0]
    assert problems == []


def test_one_key_on_two_channels():
    data = midi(key("on", 60, 0), key("on", 60, 240, channel=1), key("off", 60, 240), key("off", 60, 240, channel=1))
    assert midi_to_notes(data)[["onset", "offset"]].tolist() == [(0, 0.5), (0.25, 0.75)]


@pytest.mark.parametrize("data", [b"", b"MThd", b"\x00" * 100, b"onset,offset\n1,2\n", midi(key("on", 60, 0))[:-3]])
def test_no_midi(data, tmp_path):
    (tmp_path / "a.mid").write_bytes(data)
    with pytest.raises(InputError, match="a.mid: cannot be read as MIDI"): read_midi(tmp_path / "a.mid")


def test_errors_are_one_line(tmp_path):
    with pytest.raises(InputError) as e: read_midi(tmp_path)
    assert "\n" not in str(e.value) and str(tmp_path) in str(e.value)


@pytest.mark.parametrize("n", [0, 1, 8_000])
def test_many_notes(n):
    notes = np.zeros(n, note_array([]).dtype)
    notes["onset"], notes["pitch"], notes["velocity"] = np.arange(n) * 0.01, 21 + np.arange(n) % 88, 64
    notes["offset"] = notes["onset"] + 0.5
    assert len(midi_to_notes(notes_to_midi(notes))) == n
    assert len(from_roll(to_roll(notes, rate=100))) == n


def test_roll_of_other_keys_and_rates():
    notes = note_array([(0, 1, 20, 80), (0.5, 0.51, 60, 127), (9, 10, 60, 1)])
    lost = []
    roll = to_roll(notes, rate=31.25, frames=100, lowest=0, keys=128, lost=lost)
    assert roll.frame.shape == (100, 128) and roll.onset.sum() == 2 and len(lost) == 1
    assert roll.velocity.max() == 127 and roll.velocity.dtype == np.int8


def test_hz_not_midi_numbers():
    a = note_array([(0, 1, 60, 80)])
    assert match(a, note_array([(0, 1, 60, 80)])) == [(0, 0)] and match(a, note_array([(0, 1, 61, 80)])) == []


def test_scores_of_an_hour():
    r = np.random.default_rng(0)
    notes = note_array([(o, o + 0.2, p, 64) for o, p in zip(r.uniform(0, 3600, 2000), r.integers(21, 109, 2000))])
    late = notes.copy()
    late["onset"] += 0.04
    late["offset"] += 0.04
    assert piece_scores(notes, late)["onset_f1"] > 0.99


ODD = [[(0, 0.05, 60, 64)], [(0, 30, 60, 64)], [(5, 5.2, 21, 1), (5, 5.2, 108, 127)], [(i * 0.001, i * 0.001 + 0.1, 40 + i, 64) for i in range(40)]]


@pytest.mark.parametrize("rows", ODD)
def test_odd_performances_become_scores(rows):
    notes = note_array(rows)
    kern = places_to_kern(quantise(notes, find_beats(notes)))
    assert read_score(kern).problems == []
    assert notes_to_musicxml(notes).count("<pitch>") >= 1


def test_same_notes_same_bytes():
    notes = note_array([(0.1, 1, 60, 64), (0.5, 0.9, 67, 64)])
    assert notes_to_midi(notes) == notes_to_midi(notes.copy()) and notes_to_musicxml(notes) == notes_to_musicxml(notes)
