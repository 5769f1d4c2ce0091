"""The listener: what chapters 20, 20a and 20b do not show about themselves."""
import io
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omr.core import InputError
from omr.listening.decoding import HEARD, Thresholds, decode
from omr.listening.hppnet import PianoNet
from omr.listening.listener import Hearing, as_mono, keys_and_pedal, listen, listen_files, sine_ear
from omr.listening.listeners import Listener, hear, save_listener
from omr.listening.live import LiveListener, follow, growing_file, wav_format
from omr.listening.note_scores import piece_scores
from omr.listening.notes import midi_to_notes, note_array, read_midi
from omr.listening.performance import performance_to_midi
from omr.listening.prepared import FrontEnd
from omr.listening.sound import resample, sound_blocks, write_sound
from omr.listening.stream import NoteStream, hear_blocks, in_order
from omr.scores.notation import NOTES

RATE = 16000


def tune(seconds=40, seed=0):
    "Sines three octaves wide, never two of one key near each other."
    r = np.random.default_rng(seed)
    onsets = np.arange(0.2, seconds - 1, 0.3)
    pitches = [72 + 3 * ((5 * i) % 12) + int(r.integers(2)) for i in range(len(onsets))]
    return note_array((a, a + r.uniform(0.15, 0.28), p, 80) for a, p in zip(onsets, pitches))


def sines(notes, rate=RATE):
    out = np.zeros(round((notes["offset"].max() + 0.5) * rate), np.float32)
    for on, off, p, _ in notes.tolist():
        t = np.arange(round((off - on) * rate)) / rate
        fade = np.minimum(1, np.minimum(t / 0.005, (off - on - t) / 0.02))
        out[round(on * rate):][:len(t)] += 0.25 * fade * np.exp(-t) * np.sin(2 * np.pi * 440 * 2 ** ((p - 69) / 12) * t)
    return out


def plain(notes): return notes[list(NOTES.names)].astype(NOTES)


def test_windows_hear_what_one_pass_hears():
    "More than a minute, so that there are seams; every note the same."
    notes = tune(70)
    sound, ear = sines(notes), sine_ear()
    whole = hear(ear, sound)
    assert piece_scores(notes, plain(whole))["onset_f1"] > 0.9
    for size, margin in ((1500, 150), (300, 50), (128, 20)):
        found = in_order(hear_blocks(ear, np.array_split(sound, 23), size, margin))
        assert len(found) == len(whole)
        for k in HEARD.names: np.testing.assert_allclose(found[k], whole[k], atol=1 if k == "velocity" else 1e-3)


def test_seams_of_a_network_with_memory():
    "A bidirectional LSTM looks everywhere; three seconds on either side are enough for it."
    torch.manual_seed(1)
    net = PianoNet(stem=4, width=8, lstm=8).eval()
    sound = sines(tune(40))
    with torch.inference_mode(): whole = {k: v[0].sigmoid().numpy() for k, v in net(FrontEnd().module()(torch.from_numpy(sound)[None])).items()}
    ear = Listener(net, FrontEnd(), Thresholds(float(np.quantile(whole["onset"], 0.97)), float(np.median(whole["frame"]))))
    one, many = decode(**whole, rate=50, thresholds=ear.thresholds), in_order(hear_blocks(ear, np.array_split(sound, 9), 500, 150))
    def places(found): return set(zip(np.rint(found["onset"] * 50).astype(int).tolist(), found["pitch"].tolist()))
    assert len(one) > 300 and len(places(one) ^ places(many)) <= 0.01 * len(one)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 90))
def test_note_stream(seed, size):
    "Any probabilities, in any pieces: the notes of one pass, each once."
    r = np.random.default_rng(seed)
    heard = {k: r.random((150, 6), np.float32) ** (3 if k == "onset" else 1) for k in ("onset", "frame", "offset", "velocity")}
    stream = NoteStream(50)
    parts = [stream.push({k: v[a:a + size] for k, v in heard.items()}) for a in range(0, 150, size)]
    found, once = in_order([*parts, stream.finish()]), decode(**heard, rate=50)
    assert len(found) == len(once)
    for k in HEARD.names: np.testing.assert_allclose(np.sort(found[k]), np.sort(once[k]), atol=1e-4)


FILES = [("WAV", 44100, 2), ("FLAC", 48000, 1), ("OGG", 22050, 2), ("MP3", 44100, 2), ("AIFF", 96000, 6), ("WAV", 8000, 1)]


@pytest.mark.parametrize("kind, rate, channels", FILES)
def test_every_format_rate_and_channel(tmp_path, kind, rate, channels):
    notes = tune(6)
    notes = notes[notes["pitch"] < 100]
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, np.stack([resample(sines(notes), RATE, rate)] * channels, 1), rate, format=kind)
    heard = listen(path, model=sine_ear())
    assert piece_scores(notes, plain(heard.notes))["onset_f1"] > 0.95
    assert bool(heard.remarks) == (rate < 16000)


def weights(folder):
    torch.manual_seed(0)
    return str(save_listener(Listener(PianoNet(stem=4, width=8, lstm=8), FrontEnd(), Thresholds(0.4, 0.4)), folder))


OMR = """
import sys
import omr.cli
omr.cli.COMMANDS.setdefault("listen", ("omr.listening.listener:listen_files", ""))
sys.exit(omr.cli.main())
"""


def run(*words, code=0):
    "`omr listen` as its own process; lines of stdout and stderr."
    done = subprocess.run([sys.executable, "-c", OMR, "listen", *map(str, words)], capture_output=True, text=True, timeout=200)
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


BAD = {"silence": "silent", "short": "too short", "nan": "NaN", "text": "not a sound file", "empty": "is empty", "nothing": "no samples"}


@pytest.fixture
def bad(tmp_path):
    "A folder with one file of each fault."
    for name, sound in dict(silence=np.zeros(RATE), short=sines(tune(3))[:480], nothing=np.zeros(0)).items(): write_sound(tmp_path / f"{name}.wav", sound)
    soundfile.write(tmp_path / "nan.wav", np.where(np.arange(RATE) == 99, np.nan, 0.1).astype(np.float32), RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("This is a letter.\n" * 50)
    (tmp_path / "empty.wav").write_bytes(b"")
    return tmp_path


def test_one_line_for_each_fault(bad, capsys):
    for name, why in BAD.items():
        with pytest.raises(InputError) as e: listen_files([str(bad / f"{name}.wav")], model=sine_ear())
        assert why in str(e.value) and name in str(e.value) and "\n" not in str(e.value)
    assert not list(bad.glob("*.mid"))


def test_a_batch_goes_on(bad, capsys):
    notes = tune(4)
    write_sound(bad / "good.wav", sines(notes))
    assert listen_files([str(bad)], output_dir=str(bad / "out"), to="midi, csv, musicxml", model=sine_ear()) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and "good.wav" in out
    assert len(err.splitlines()) == len(BAD) + 1 and err.splitlines()[-1].startswith(f"{len(BAD)} of {len(BAD) + 1} failed")
    assert sorted(o.name for o in (bad / "out").iterdir()) == ["good.csv", "good.mid", "good.musicxml"]
    assert piece_scores(notes, read_midi(bad / "out/good.mid"))["offset_f1"] > 0.9


def test_as_a_process(bad):
    folder = weights(bad / "weights")
    _, err = run(bad / "text.wav", "--model", folder, code=2)
    assert len(err) == 1 and "not a sound file" in err[0]
    _, err = run(bad / "silence.wav", bad / "text.wav", "--model", folder, code=1)
    assert len(err) == 3
    _, err = run(bad / "text.wav", "--model", bad / "none", code=2)
    assert len(err) == 1
    _, err = run(bad / "text.wav", "--to", "pdf", code=2)
    assert "choose among midi, musicxml, csv" in err[0]


def test_clipped_sound_is_heard_and_said():
    notes = tune(6)
    heard = listen(np.clip(40 * sines(notes), -1, 1), RATE, sine_ear())
    assert any("clipped" in o for o in heard.remarks)


def test_unwritable_output(bad):
    write_sound(bad / "good.wav", sines(tune(4)))
    (bad / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"): listen_files([str(bad / "good.wav")], output_dir=str(bad / "file"), model=sine_ear())


def test_arrays():
    sound = sines(tune(4))
    forms = [sound, sound.tolist(), torch.from_numpy(sound), (sound * 32767).astype(np.int16)[:, None]]
    same = [listen(o, RATE, sine_ear()).notes["pitch"].tolist() for o in forms]
    assert all(o == same[0] for o in same)
    assert len(as_mono(np.zeros((2, 50)))) == len(as_mono(np.zeros((50, 2)))) == 50
    with pytest.raises(InputError, match="sample_rate"): listen(sound, None, sine_ear())
    with pytest.raises(InputError, match="sample_rate"): listen(sound, 0, sine_ear())
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="FLAC")
    file.seek(0)
    assert listen(file, model=sine_ear()).notes["pitch"].tolist() == same[0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_keys_and_pedal_sound_the_same(seed):
    "Whatever is guessed of keys and pedal, the file sounds as what was heard."
    r = np.random.default_rng(seed)
    rows = []
    for bar in range(4):
        lift = 2 * bar + 1.9
        for i, p in enumerate(r.permutation(np.arange(40, 90))[:r.integers(1, 9)]):
            on = 2 * bar + 0.2 * i
            rows.append((on, lift + r.uniform(-0.02, 0) if r.random() < 0.8 else on + r.uniform(0.1, 0.2), p, 80))
    notes = note_array(o for o in rows if o[1] > o[0])
    played = keys_and_pedal(notes)
    np.testing.assert_allclose(played.sounding()["offset"], notes["offset"], atol=0.08)
    np.testing.assert_allclose(midi_to_notes(performance_to_midi(played), pedal=True)["offset"], notes["offset"], atol=0.08)
    assert (played.notes["offset"] > played.notes["onset"]).all()
    assert (np.diff(played.pedal.ravel()) > 0).all()


def test_forms_of_a_hearing():
    notes = np.zeros(2, HEARD)
    notes["onset"], notes["offset"], notes["pitch"], notes["velocity"], notes["confidence"] = [0.5, 1], [1, 1.5], [60, 64], [80, 90], [0.9, 0.45]
    heard = Hearing(notes, 2)
    assert heard.csv().splitlines() == ["onset,offset,pitch,velocity,confidence", "0.5000,1.0000,60,80,0.900", "1.0000,1.5000,64,90,0.450"]
    assert midi_to_notes(heard.midi())["pitch"].tolist() == [60, 64]
    assert "<score-partwise" in heard.musicxml(120)
    assert Hearing(notes[:0], 2).confidence == 0 and len(midi_to_notes(Hearing(notes[:0], 2).midi())) == 0


def test_a_long_sound_needs_no_more_memory(tmp_path):
    "Ten times as long, as much memory: nothing of the sound is kept. Measured in a process of its own."
    path = write_sound(tmp_path / "long.wav", np.tile(sines(tune(20)), 15))
    code = f"""
import resource, torch
from omr.listening.listener import sine_ear
from omr.listening.sound import sound_blocks
from omr.listening.stream import hear_blocks
from itertools import islice
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parts = hear_blocks(sine_ear(), sound_blocks({str(path)!r}))
next(parts), next(parts)
first = peak()
for _ in parts: pass
print(first, peak())
"""
    first, last = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout.split())
    assert last < 1.15 * first


def test_live_hears_the_same_and_soon():
    notes = tune(8)
    sound, live, strikes = sines(notes), LiveListener(sine_ear()), []
    over = []
    for a in range(0, len(sound), 160):
        begun, ended = live.push(sound[a:a + 160])
        strikes += [((a + 160) / RATE, o) for o in begun]
        over.append(ended)
    found = in_order([*over, live.finish()])
    assert piece_scores(notes, plain(found))["onset_f1"] > 0.95
    assert len(strikes) == len(found)
    assert max(when - o["onset"] for when, o in strikes) < 0.19
    assert len(live.sound) < 4 * RATE


def test_live_blocks_of_any_size():
    sound, found = sines(tune(5)), []
    for size in (37, 1280, 10 ** 6):
        live = LiveListener(sine_ear())
        parts = [live.push(sound[a:a + size])[1] for a in range(0, len(sound), size)]
        found.append(in_order([*parts, live.finish()]))
    assert len({tuple(o["pitch"].tolist()) for o in found}) == 1


def test_growing_files(tmp_path):
    "Extensible headers, floats, odd chunks, and a header that comes in pieces."
    notes = tune(4)
    sound, path = sines(notes), tmp_path / "a.wav"
    for subtype, kind in (("PCM_16", "WAV"), ("FLOAT", "WAV"), ("PCM_32", "WAVEX")):
        soundfile.write(file := io.BytesIO(), np.stack([sound, sound], 1), RATE, format=kind, subtype=subtype)
        data = file.getvalue()
        assert wav_format(data[:20]) is None
        path.write_bytes(data[:20])

        def write(rest=data[20:]):
            with open(path, "ab", buffering=0) as f:
                for a in range(0, len(rest), 50_001): f.write(rest[a:a + 50_001]), time.sleep(0.01)

        writer = threading.Thread(target=write)
        writer.start()
        found, meter = follow(growing_file(path, patience=0.7), LiveListener(sine_ear()), report=lambda line: None)
        writer.join()
        assert meter.samples == len(sound) and meter.rate == RATE
        assert piece_scores(notes, plain(found))["onset_f1"] > 0.95


def test_live_says_what_is_missing(tmp_path):
    for name, data, why in (("a.wav", b"ID3" + bytes(50), "is no WAV"), ("b.wav", b"", "no sound yet")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=why): next(growing_file(tmp_path / name, patience=0.1))
    with pytest.raises(InputError, match="lookahead"): LiveListener(sine_ear(), lookahead=1)


def test_no_sound_is_kept_open(tmp_path):
    "A generator that is not read to its end lets go of its file."
    path = write_sound(tmp_path / "a.wav", sines(tune(3)))
    next(blocks := sound_blocks(path))
    blocks.close()
    path.unlink()


def test_config_names_the_front_end(tmp_path):
    config = json.loads((tmp_path / "w" / "config.json").read_text()) if weights(tmp_path / "w") else {}
    assert config["architecture"] == "piano" and config["front_end"]["hop"] == 320
