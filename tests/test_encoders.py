"""Encoders: seven families at several sizes, published sizes without weights, and each way to be refused. What notebook 09f does not show."""
import copy
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from omr.core import InputError
from omr.reading.encoders import SEVEN, PretrainedEncoder, VisionEncoder, bare, find_encoder, grid_of, positions_2d, small

torch.set_num_threads(1)
NAMES = pytest.mark.parametrize("name", SEVEN)
TINY = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)


def config_of(name, **changes): return small(SEVEN[name]["config"]) | changes
def greys(*size, seed=0): return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_seven_have_their_published_size():
    from omr.reading.decoder import TextDecoder

    for name, o in SEVEN.items():
        with torch.device("meta"): parts = VisionEncoder(o["config"], 512, o["mean"], o["std"]), TextDecoder(4096)
        total = sum(p.numel() for part in parts for p in part.parameters()) / 1e6
        assert total == pytest.approx(o["published"], rel=.02), name


@NAMES
@pytest.mark.parametrize("size", [(224, 224), (100, 333)], ids=str)
def test_saved_opened_forward_backward(name, size, tmp_path):
    config = config_of(name)
    torch.manual_seed(1)
    made = bare(config).eval()
    made.save_pretrained(tmp_path)
    found, weights, *_ = find_encoder(str(tmp_path))
    eyes = VisionEncoder(found, 32, SEVEN[name]["mean"], SEVEN[name]["std"])
    eyes.net.load_state_dict(weights)
    memory = eyes.eval()(greys(2, *size), torch.tensor([size[1], size[1] // 2]))
    columns = -(-size[1] // eyes.grid.stride)
    assert memory.states.shape == (2, memory.rows * columns, 32) and memory.rows == -(-size[0] // eyes.grid.stride)
    assert memory.seen.sum(1).tolist() == [memory.rows * columns, memory.rows * -(-(size[1] // 2) // eyes.grid.stride)]
    assert memory.at[0, :columns].tolist() == [(c + .5) * eyes.grid.stride for c in range(columns)]
    memory.states[memory.seen].square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in eyes.parameters())
    with torch.no_grad(): assert torch.equal(made(torch.ones(1, 3, 224, 224)).last_hidden_state, eyes.net(torch.ones(1, 3, 224, 224)).last_hidden_state)


@NAMES
def test_an_image_reads_the_same_whatever_was_before(name):
    torch.manual_seed(0)
    eyes, image = VisionEncoder(config_of(name), 32).eval(), greys(1, 256, 288)
    with torch.no_grad(): first, _, again = eyes(image), eyes(greys(1, 64, 512)), copy.deepcopy(eyes)(image)
    assert torch.equal(first.states, again.states)


@pytest.mark.parametrize("side", [224, 448, 512])
def test_swin_is_that_of_the_library(side):
    "Where the library's own layers work: a fresh model, and windows that fit."
    from transformers import AutoConfig, AutoModel

    config = config_of("swin-tiny", depths=[2, 2, 2, 2])
    ours, theirs = bare(config).eval(), AutoModel.from_config(AutoConfig.for_model(**config)).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, side, side)
    with torch.no_grad():
        ours(torch.rand(1, 3, 96, 640))
        assert torch.allclose(ours(x).last_hidden_state, theirs(x).last_hidden_state, atol=1e-6)


OTHERS = {
    "deit": (dict(TINY), 16, 2),
    "dinov2": (dict(TINY, patch_size=14, image_size=224), 14, 1), "dinov3_vit": (dict(TINY, num_register_tokens=4), 16, 5),
    "beit": (dict(TINY), 16, 1), "siglip_vision_model": (dict(TINY), 16, 0), "clip_vision_model": (dict(TINY), 32, 1),
    "segformer": (dict(hidden_sizes=[8, 16, 24, 32]), 32, 0),
    "swinv2": (dict(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4]), 32, 0), "cvt": (dict(embed_dim=[16, 32, 48], num_heads=[1, 2, 3]), 16, 0),
}


@pytest.mark.parametrize("family", OTHERS)
def test_other_families(family):
    settings, stride, extra = OTHERS[family]
    eyes = VisionEncoder({"model_type": family, **settings}, 32)
    assert eyes.grid[:2] == (stride, extra)
    memory = eyes(greys(1, 130, 300))
    assert memory.states.shape[1] == memory.rows * -(-300 // stride) and memory.seen.all()


def test_clip_sees_with_its_vision_half(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    CLIPModel(CLIPConfig(text_config=dict(TINY, vocab_size=50), vision_config=dict(TINY))).save_pretrained(tmp_path)
    config, weights, *_ = find_encoder(str(tmp_path))
    assert config["model_type"] == "clip_vision_model"
    VisionEncoder(config, 32).net.load_state_dict(weights)


@NAMES
def test_grey_checkpoints(name):
    config = config_of(name, num_channels=1)
    assert VisionEncoder(config, 32, [.5] * 3, [.2] * 3)(greys(1, 64, 96)).states.isfinite().all()


def test_same_greys_as_the_image_processor():
    from transformers import ViTImageProcessorPil

    image, o = greys(1, 224, 224), SEVEN["convnext-tiny"]
    processor = ViTImageProcessorPil(image_mean=o["mean"], image_std=o["std"], do_resize=False)
    theirs = processor(image[0].expand(3, -1, -1).numpy(), return_tensors="pt")["pixel_values"]
    eyes, given = VisionEncoder(config_of("convnext-tiny"), 32, o["mean"], o["std"]), []
    eyes.net.register_forward_pre_hook(lambda net, x: given.append(x[0]))
    eyes(image)
    assert torch.allclose(given[0], theirs, atol=1e-5)


def test_padding_is_paper():
    eyes = VisionEncoder(config_of("resnet-50"), 32).eval()
    image = greys(1, 60, 90)
    padded = torch.nn.functional.pad(image, (0, 6, 0, 4), value=255)
    with torch.no_grad(): assert torch.equal(eyes(image).states, eyes(padded).states)


def test_places_are_told_apart(): assert torch.unique(positions_2d(7, 9, 32).round(decimals=4), dim=0).shape[0] == 63


def test_canvas_places_are_px_of_the_strip():
    eyes = PretrainedEncoder(32, 8, 0., **config_of("swin-tiny"))  # 4 rows of places, less than a window
    memory = eyes(greys(2, 64, 500), torch.tensor([500, 250]))
    assert memory.rows == 4 and memory.at[:, :40].diff().unique().tolist() == [16.]


def test_a_model_of_one_size_is_refused_at_others():
    config = {"model_type": "levit", "image_size": 224, "hidden_sizes": [16, 32, 48], "num_attention_heads": [1, 2, 3], "key_dim": [8, 8, 8]}
    with pytest.raises(InputError, match="does not read images of 128 x 640 px"): grid_of(config, (128, 640))


@pytest.mark.parametrize("change, why", [
    ({"model_type": "bert"}, "takes input_ids, not images"), ({"model_type": "vit_mae"}, "hides most of the image"),
    ({"model_type": "nonsense"}, "no model of transformers"), ({"model_type": "vit", "hidden_size": "x"}, "no model of transformers"),
    ({}, "no model of transformers"), ({"model_type": "timesformer"}, "does not read images"),
])
def test_bad_configurations(change, why):
    with pytest.raises(InputError, match=why): grid_of(change)


@pytest.mark.parametrize("file, text, why", [
    ("config.json", "{", "a config.json that transformers cannot read"), ("config.json", "[]", "a config.json that transformers cannot read"),
    ("config.json", '{"model_type": "vit", "auto_map": {"AutoConfig": "a.b"}, "hidden_size": 9}', "--encoder"), ("config.json", None, "no config.json"),
    ("preprocessor_config.json", "{", "without a mean"), ("preprocessor_config.json", "[1]", "without a mean and a deviation"),
    ("preprocessor_config.json", '{"image_mean": "x", "image_std": 3}', "without a mean and a deviation"),
    ("model.safetensors", "", "weights that cannot be read"), ("model.safetensors", None, "no weights in safetensors"),
])
def test_bad_files(file, text, why, tmp_path):
    bare(config_of("vit-small")).save_pretrained(tmp_path)
    (tmp_path / file).unlink(missing_ok=True)
    if text is not None: (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=why) as e: find_encoder(str(tmp_path))
    assert str(e.value).startswith("--encoder ") and "\n" not in str(e.value)


class Hub(http.server.BaseHTTPRequestHandler):
    "A hub that knows one model, whose terms nobody has accepted, and one without weights in safetensors."
    def log_message(self, *args): pass
    do_HEAD = lambda self: self.do_GET()

    def do_GET(self):
        config, files = json.dumps(config_of("vit-small")).encode(), ["config.json", "pytorch_model.bin"]
        info = {"id": "some/pickled", "sha": "0" * 40, "siblings": [{"rfilename": o} for o in files]}
        tree = [{"type": "file", "path": o, "size": len(config), "oid": "0" * 40} for o in files]
        code, kind, body = 200, "", config if "/resolve/" in self.path else json.dumps(tree if "/tree/" in self.path else info).encode()
        if "gated" in self.path: code, kind, body = 403, "GatedRepo", b"{}"
        elif "pickled" not in self.path: code, kind, body = 404, "RepoNotFound", b"{}"
        self.send_response(code)
        for k, v in {"X-Error-Code": kind, "X-Repo-Commit": "0" * 40, "ETag": '"1"', "Content-Length": len(body)}.items(): self.send_header(k, str(v))
        self.end_headers()
        if self.command == "GET": self.wfile.write(body)


ASK = """
import sys
from omr.core import InputError
from omr.reading.encoders import find_encoder
for name in sys.argv[1:]:
    try: find_encoder(name, pretrained=name[0] != "-")
    except InputError as e: print(e)
"""


def ask(home, *names, **env):
    "What is said to a user; the hub's address is read once, when its library is imported."
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **env}
    done = subprocess.run([sys.executable, "-c", ASK, *names], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_hub_refusals(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    try: said = ask(tmp_path, "nobody/nothing", "some/gated", "some/pickled", "no-such-model", "a/b/c", HF_ENDPOINT=here, HF_HUB_OFFLINE="0")
    finally: server.shutdown(), server.server_close()
    unreached = ask(tmp_path, "nobody/nothing", "deit-small", "some/pickled", HF_ENDPOINT=here, HF_HUB_OFFLINE="0")
    whys = ["the hub has no such model", "accept their terms", "no weights in safetensors", "no encoder of that name", "a hub id is owner/name"]
    assert len(said) == 5 and all(why in line for why, line in zip(whys, said)), said
    assert len(unreached) == 3 and all("the hub cannot be reached" in o and "--no-pretrained" in o for o in unreached), unreached


def test_the_seven_need_no_network_without_weights():
    assert [find_encoder(o["id"], pretrained=False)[0] for o in SEVEN.values()] == [find_encoder(k, pretrained=False)[0] for k in SEVEN]
