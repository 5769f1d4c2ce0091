"Performed music: what hands do, what soundfonts hold, what rooms do, and whole sets."
import io, stat, struct, sys
import numpy as np
import pytest
import soundfile
from omr.core import InputError
from omr.listening.notes import midi_to_notes
from omr.listening.performance import PEDALS, Performance, Style, one_finger, perform, performance_to_midi, written
from omr.listening.performed import embedded_soundfont, load_sound, mended, performed_piece, performed_set, read_works
from omr.listening.prepared import FrontEnd, read_set
from omr.listening.rooms import roomed
from omr.listening.sampler import Strings, cents_off, generated_piano, play, random_strings, read_samples
from omr.listening.soundfonts import play_fluidsynth, read_soundfont, soundfont_programs
from omr.listening.textures import accompany, embedded_score, etude
from omr.scores.notation import NOTES

KERN = "**kern\t**kern\n*M4/4\t*M4/4\n4C 4E\t4c\n4D\t4d 4f\n4E\t4e\n4F\t4f\n=\t=\n1G\t8g\n.\t8a\n.\t4b\n.\t2cc\n==\t==\n*-\t*-\n"

def note(key, velocity=80, seconds=1.0, pedal=()): return Performance(np.array([(0, seconds, key, velocity)], NOTES), np.array(pedal, float).reshape(-1, 2))

def error(f, *args, **kwargs):
    with pytest.raises(InputError) as e: f(*args, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)

@pytest.mark.parametrize("seed", range(25))
def test_a_performance_can_be_played(seed):
    score = etude(np.random.default_rng(seed), 16) if seed % 2 else written(KERN)
    p, again = (perform(score, np.random.default_rng(seed)) for _ in range(2))
    assert (p.notes == again.notes).all() and (p.pedal == again.pedal).all()
    assert (p.notes["onset"] >= 0).all() and (np.diff(p.notes["onset"]) >= 0).all() and set(p.notes["pitch"]) <= set(range(21, 109))
    for notes in (p.notes, p.sounding()):
        assert (notes["offset"] > notes["onset"]).all()
        for key in set(notes["pitch"]):
            of = notes[notes["pitch"] == key]
            assert (of["offset"][:-1] <= of["onset"][1:]).all()
    assert (np.diff(p.pedal.ravel()) > 0).all()
    assert (p.sounding()["offset"] >= p.notes["offset"] - 1e-9).all()

@pytest.mark.parametrize("pedal", PEDALS)
def test_midi_says_the_same_in_both_conventions(pedal):
    p = perform(written(KERN), np.random.default_rng(1), Style(pedal=pedal, touch=(1.0, .4), spread=.01, lead=20))
    assert performance_to_midi(p) == performance_to_midi(p)
    for convention, truth in ((True, p.sounding()), (False, p.notes)):
        read = midi_to_notes(performance_to_midi(p), pedal=convention)
        assert (read["pitch"] == truth["pitch"]).all() and (read["velocity"] == truth["velocity"]).all()
        assert max(np.abs(read[k] - truth[k]).max() for k in ("onset", "offset")) < 2e-4

def test_two_voices_on_one_key_strike_it_once():
    assert len(one_finger(np.array([(0, 1, 60, 50), (.01, 2, 60, 60), (.02, 2, 61, 60)], NOTES))) == 2
    assert len(one_finger(np.array([(.015 * i, .015 * i + 1, 60, 50) for i in range(40)], NOTES))) > 5  # a tremolo keeps what can be told apart

def test_what_has_no_notes_is_said_to():
    assert "no notes" in error(written, "**kern\n1r\n*-\n")
    assert "piano" in error(perform, written("**kern\n1CCCCCC\n*-\n"), np.random.default_rng(0))

# soundfonts made here


def font(samples, zones, compressed=False, kind=b"sfbk"):
    "(samples, each int16; zones, each {generator: value} with 53 the sample) as the bytes of a soundfont with one program."
    def chunk(name, data): return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    smpl, shdr = b"", b""
    for s in samples:
        if compressed:
            file = io.BytesIO()
            soundfile.write(file, s, 44100, format="OGG", subtype="VORBIS")
            start, smpl = len(smpl), smpl + file.getvalue()
            end, loop = len(smpl), (0, 0)
        else:
            start, smpl = len(smpl) // 2, smpl + s.tobytes() + bytes(92)
            end, loop = start + len(s), (start, start + len(s))
        shdr += struct.pack("<20sIIIIIBbHH", b"sine", start, end, *loop, 44100, 69, 0, 0, 17 if compressed else 1)
    gens = [struct.pack("<Hh", k, v) for z in zones for k, v in sorted(z.items())]
    ends = np.cumsum([0, *map(len, zones)])
    table = {b"phdr": struct.pack("<20sHHHIII", b"Sine", 0, 0, 0, 0, 0, 0) + struct.pack("<20sHHHIII", b"EOP", 0, 0, 1, 0, 0, 0),
             b"pbag": struct.pack("<HHHH", 0, 0, 1, 0), b"pmod": bytes(10), b"pgen": struct.pack("<HhHh", 41, 0, 0, 0),
             b"inst": struct.pack("<20sH", b"sine", 0) + struct.pack("<20sH", b"EOI", len(zones)),
             b"ibag": b"".join(struct.pack("<HH", e, 0) for e in ends), b"imod": bytes(10), b"igen": b"".join(gens) + bytes(4), b"shdr": shdr + bytes(46)}
    lists = (b"INFO" + chunk(b"INAM", b"made here\0"), b"sdta" + chunk(b"smpl", smpl), b"pdta" + b"".join(chunk(k, v) for k, v in table.items()))
    body = kind + b"".join(chunk(b"LIST", o) for o in lists)
    return b"RIFF" + struct.pack("<I", len(body)) + body

def sine(hertz=440, seconds=.1, level=20000): return (level * np.sin(2 * np.pi * hertz * np.arange(int(44100 * seconds)) / 44100)).astype("<i2")

def test_a_soundfont_is_followed(tmp_path):
    path = tmp_path / "a.sf2"
    low, high = 0 | 59 << 8, 60 | 127 << 8  # ranges of keys
    path.write_bytes(font([sine(), sine(880)], [{43: low, 54: 1, 53: 0, 37: 1000, 36: 3986}, {43: high, 54: 1, 53: 1, 58: 81, 52: 25, 48: 100, 38: 1200}]))
    assert soundfont_programs(path) == {(0, 0): "Sine"}
    instrument = read_soundfont(path)
    a, b = instrument.for_note(40, 80)[0], instrument.for_note(60, 80)[0]
    assert (a.keys, b.keys, a.loop) == ((0, 59), (60, 127), (0, 4410))
    assert abs(a.decay - 10) < .01 and a.sustain == 96 and abs(b.release - 2) < 1e-6
    assert abs(20 * np.log10(b.gain / a.gain) + 4) < 1e-6  # 10 dB, of which the format's players take 0.4
    assert abs(cents_off(play(instrument, note(57, seconds=.8))[500:6000], 16000, 57)) < .5
    for key in (64, 81, 93): assert abs(cents_off(play(instrument, note(key))[500:15000], 16000, key) - 25) < .5
    assert len(play(instrument, note(81), seconds=.5)) == 8000
    quiet, loud = (np.abs(play(instrument, note(81, v))).max() for v in (30, 120))
    assert abs(loud / quiet - 16) < .1

def test_compressed_samples(tmp_path):
    path = tmp_path / "a.sf3"
    path.write_bytes(font([sine(seconds=1.0)], [{53: 0}], compressed=True))
    assert abs(cents_off(play(read_soundfont(path), note(69, seconds=.9))[500:12000], 16000, 69)) < .5

def test_broken_soundfonts_say_one_line(tmp_path):
    good = font([sine()], [{53: 0}])
    broken = {"empty": b"", "text": b"not a soundfont, but a text",
              "kind": font([sine()], [{53: 0}], kind=b"WAVE"), "cut": good[:len(good) // 2], "no tables": good[:60]}
    for name, data in broken.items():
        (tmp_path / f"{name}.sf2").write_bytes(data)
        assert f"{name}.sf2" in error(read_soundfont, tmp_path / f"{name}.sf2")
    assert "No such file" in error(read_soundfont, tmp_path / "missing.sf2")
    assert "cannot be read" in error(read_soundfont, tmp_path)
    (tmp_path / "good.sf2").write_bytes(good)
    assert "no program 5" in error(read_soundfont, tmp_path / "good.sf2", 5)
    assert "no samples" in error(read_samples, tmp_path)
    (tmp_path / "C4.wav").write_text("no sound")
    error(lambda: play(read_samples(tmp_path), note(60)))

def test_the_piano_of_the_house():
    piano = read_soundfont(embedded_soundfont())
    off = [cents_off(play(piano, note(key, seconds=1.5))[4000:24000], 16000, key) for key in range(21, 109)]
    assert np.abs(off).max() < 10
    for key in (30, 60, 90):
        peaks = [np.abs(play(piano, note(key, v))).max() for v in (10, 40, 70, 100, 127)]
        assert (np.diff(peaks) > 0).all()
        let_go, held = play(piano, note(key, seconds=.5), seconds=3), play(piano, note(key, seconds=.5, pedal=(.4, 2.9)), seconds=3)
        assert np.abs(let_go[32000:]).max() < 1e-3 * np.abs(let_go).max()
        assert np.abs(held[16000:24000]).max() > 3 * np.abs(let_go[16000:24000]).max()

def test_pianos_that_nobody_built():
    for seed in range(4):
        piano = generated_piano(random_strings(np.random.default_rng(seed)) if seed else Strings())
        for key in (21, 47, 60, 83, 108):
            sound = play(piano, note(key, 90, 1.0), seconds=2)
            assert np.isfinite(sound).all() and .01 < np.abs(sound).max() < 3
            if 30 < key < 90: assert abs(cents_off(sound[2000:16000], 16000, key)) < 25  # stiff strings
        assert (np.diff([np.abs(play(piano, note(60, v), seconds=1)).max() for v in (20, 70, 120)]) > 0).all()

def test_fluidsynth_is_called_as_it_should(tmp_path):
    program = tmp_path / "fluidsynth"
    program.write_text(f"""#!{sys.executable}
import sys, wave
args = sys.argv[1:]
if 'bad.sf2' in args[-2]: sys.exit('no such soundfont')
assert open(args[-1], 'rb').read(4) == b'MThd'
with wave.open(args[args.index('-F') + 1], 'wb') as w:
    w.setparams((2, 2, int(args[args.index('-r') + 1]), 0, 'NONE', ''))
    w.writeframes(bytes(4) * 800)
""")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    sound = play_fluidsynth("good.sf2", performance_to_midi(note(60)), 8000, program=str(program))
    assert sound.shape == (800,) and sound.dtype == np.float32
    assert "no such soundfont" in error(play_fluidsynth, "bad.sf2", performance_to_midi(note(60)), program=str(program))
    assert "does not run" in error(play_fluidsynth, "good.sf2", b"", program=str(tmp_path / "nothing"))

def test_rooms_keep_time():
    clicks = np.zeros(32000, np.float32)
    clicks[[8000, 20000]] = 1
    for seed in range(30):
        rng = np.random.default_rng(seed)
        heard = roomed(clicks, 16000, rng)
        assert heard.shape == clicks.shape and heard.dtype == np.float32 and np.isfinite(heard).all() and np.abs(heard).max() <= 1
    tone = np.where(np.arange(32000) < 8000, 0, np.sin(np.arange(32000) * 2 * np.pi * 440 / 16000)).astype(np.float32)
    for seed in range(30):
        heard = roomed(tone, 16000, np.random.default_rng(seed))
        power = np.convolve((heard - heard.mean()) ** 2, np.ones(400) / 400, "same")
        first = np.flatnonzero(power[2000:] > .25 * np.median(power[12000:30000]))[0] + 2000
        assert abs(first - 8000) < 640  # 40 ms, with a window of 25

@pytest.mark.parametrize("sound", [np.zeros(16000), np.ones(1), np.full(100, .5), np.sin(np.arange(48000))])
def test_rooms_take_any_sound(sound):
    for seed in range(8):
        out = roomed(sound.astype(np.float32), 16000, np.random.default_rng(seed))
        assert out.shape == sound.shape and np.isfinite(out).all()

def test_scores_that_are_half_broken(tmp_path):
    assert mended("**kern\n8bbnb\n2r.yy 4c\n4yyy\n*-") == "**kern\n8bbn\n2r 4c\n.\n*-"
    (tmp_path / "One").mkdir()
    (tmp_path / "One" / "good.krn").write_text(KERN)
    (tmp_path / "One" / "mended.krn").write_text(KERN.replace("4e\n", "4enc\n"))
    (tmp_path / "One" / "bad.krn").write_text("**kern\n4c\t4d\n*-\n")
    works = read_works(tmp_path)
    assert [w.name.split("/")[-1] for w in works] == ["good.krn", "mended.krn"]
    assert works[0].read().notes.tolist() == written(KERN).notes.tolist()
    for name in ("good", "mended"): (tmp_path / "One" / f"{name}.krn").unlink()
    assert "none of 1 scores" in error(read_works, tmp_path)

def test_pieces_and_their_parts():
    rng = np.random.default_rng(0)
    both = accompany(written("**kern\n*M4/4\n4c\n4e\n4g\n4cc\n=\n1cc\n==\n*-\n"), rng)
    assert set(both.notes["staff"]) == {0, 1} and both.bars.tolist() == [0, 4, 8]
    for split in ("train", "test"):
        score, source = embedded_score(rng, split)
        assert len(score.notes) and source
    for ensemble in (False, True):
        piece = performed_piece("a", "test", ensemble=ensemble, seconds=(4, 5))
        again = performed_piece("a", "test", ensemble=ensemble, seconds=(4, 5))
        assert (piece.sound == again.sound).all() and (piece.notes == again.notes).all()
        assert (piece.notes["onset"] * 16000 < len(piece.sound)).all() and len(piece.keys) <= len(piece.notes) + 3
    assert "no split 'tests'" in error(performed_piece, 0, "tests")
    error(load_sound, "nowhere.sf2")

def test_a_set_goes_on_where_it_stopped(tmp_path):
    settings = dict(hours=.002, seconds=(3, 4), shares={"train": .7, "test": .3}, workers=1, front=FrontEnd(hop=640))
    made = performed_set(tmp_path / "set", **settings)
    assert made["failed"] == [] and made["made"] == sum(made["pieces"].values())
    def content(): return {(p.path, k): v.tolist() for split in ("train", "test") for p in read_set(tmp_path / "set", split) for k, v in p.tensors().items()}
    before, gone = content(), read_set(tmp_path / "set", "test")[0].path
    gone.unlink()
    (gone.parent / ".half.part").write_bytes(b"half")
    assert performed_set(tmp_path / "set", **settings)["made"] == 1
    assert content() == before
    piece = read_set(tmp_path / "set", "test")[0]
    assert piece.about["source"] and piece.notes()["pitch"].min() >= 21
    assert "another" in error(performed_set, tmp_path / "set", **(settings | dict(front=FrontEnd())))
    assert "No such file" in error(performed_set, tmp_path / "other", .001, sounds=["nowhere.sf2"])
