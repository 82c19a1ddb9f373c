"""Files and links that nobody sends in good faith, and clumsy ones: what the app must answer with one sentence."""

from __future__ import annotations

import base64
import io
import json
import zipfile
import zlib
from collections.abc import Iterator

GOOD = 'recipe = "mopd"\ndomains = ["math", "code"]\ngpus = 64\n'
BINARY = {
    "zeros": bytes(1000),
    "random": bytes(range(256)) * 8,
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(64),
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "utf16": GOOD.encode("utf-16"),
    "latin1": 'recipe = "m\xfcll"'.encode("latin-1"),
    "broken utf8": GOOD.encode() + b"\xc3\x28",
    "overlong": b"\xc0\xae\xc0\xae/etc/passwd",
    "zero byte": GOOD.encode() + b"\0",
    "nothing": b"",
    "blank": b" \n\t\n",
    "only a mark": b"\xef\xbb\xbf",
}


def zipped() -> bytes:
    """A spreadsheet is a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


def scenarios() -> Iterator[tuple[str, bytes]]:
    """Scenario files."""
    yield from BINARY.items()
    yield "xlsx", zipped()
    yield "huge", GOOD.encode() + b"#" * 5_000_000
    texts = {
        "not toml": "recipe: mopd",
        "json": '{"recipe": "mopd"}',
        "html": "<script>alert(1)</script>",
        "yaml bomb": "a: &a [x, x]\nb: &b [*a, *a]\n",
        "half a string": 'recipe = "mopd',
        "same key twice": GOOD + "gpus = 1\n",
        "deep tables": "[" + ".".join("a" * 1 for _ in range(4000)) + "]\n",
        "deep arrays": "a = " + "[" * 5000 + "]" * 5000,
        "deep inline tables": "a = " + "{a = " * 2000 + "1" + "}" * 2000,
        "endless number": "gpus = " + "9" * 5000,
        "endless float": GOOD + "budget_usd = 1e400\n",
        "endless key": "k" * 100_000 + " = 1\n",
        "endless string": f'recipe = "{"x" * 100_000}"\n',
        "unknown key": GOOD + "gpuz = 1\n",
        "dunder key": GOOD + '__class__ = "x"\n',
        "import path": GOOD + 'loader = "os.system"\n',
        "no recipe": 'domains = ["math"]\n',
        "unknown recipe": 'recipe = "mopdd"\ndomains = ["math"]\n',
        "recipe is a number": 'recipe = 3\ndomains = ["math"]\n',
        "recipe is a list": 'recipe = ["mopd"]\ndomains = ["math"]\n',
        "recipe is a date": "recipe = 2024-01-01\n",
        "no domains": 'recipe = "mopd"\n',
        "domains empty": 'recipe = "mopd"\ndomains = []\n',
        "domains is text": 'recipe = "mopd"\ndomains = "math"\n',
        "domains of numbers": 'recipe = "mopd"\ndomains = [1, 2]\n',
        "domains nested": 'recipe = "mopd"\ndomains = [["math"]]\n',
        "domain twice": 'recipe = "mopd"\ndomains = ["math", "math"]\n',
        "unknown domain": 'recipe = "mopd"\ndomains = ["maths"]\n',
        "many domains": f'recipe = "mopd"\ndomains = {json.dumps(["math"] * 500)}\n',
        "gpus zero": 'recipe = "mopd"\ndomains = ["math"]\ngpus = 0\n',
        "gpus negative": 'recipe = "mopd"\ndomains = ["math"]\ngpus = -5\n',
        "gpus a fraction": 'recipe = "mopd"\ndomains = ["math"]\ngpus = 1.5\n',
        "gpus true": 'recipe = "mopd"\ndomains = ["math"]\ngpus = true\n',
        "gpus text": 'recipe = "mopd"\ndomains = ["math"]\ngpus = "64"\n',
        "gpus enormous": 'recipe = "mopd"\ndomains = ["math"]\ngpus = 99999999999\n',
        "both pools and gpus": GOOD + "[pools]\na = 3\n",
        "unknown gpu": GOOD + 'gpu = "H1000"\n',
        "gpu is a number": GOOD + "gpu = 100\n",
        "unknown model": GOOD + 'model = "GPT-9"\n',
        "model is a path": GOOD + 'model = "/etc"\n',
        "model is a file": GOOD + 'model = "/etc/passwd.json"\n',
        "model climbs": GOOD + 'model = "../../.."\n',
        "model is empty": GOOD + 'model = ""\n',
        "smaller is a path": GOOD + 'smaller = "/etc"\n',
        "nan": GOOD + "budget_usd = nan\n",
        "inf": GOOD + "budget_usd = inf\n",
        "minus inf": GOOD + "deadline_days = -inf\n",
        "negative money": GOOD + "budget_usd = -1\n",
        "teams zero": GOOD + "teams = 0\n",
        "draws enormous": GOOD + "draws = 100000\n",
        "draws negative": GOOD + "draws = -1\n",
        "seed text": GOOD + 'seed = "x"\n',
        "seed nan": GOOD + "seed = nan\n",
        "overlap": GOOD + 'overlap = "sometimes"\n',
        "rounds enormous": GOOD + "[options]\nrounds = 1000000\n",
        "rounds negative": GOOD + "[options]\nrounds = -1\n",
        "unknown option": GOOD + "[options]\nrondes = 2\n",
        "groups of strangers": GOOD + '[options]\ngroups = [["chess"]]\n',
        "amounts": GOOD + '[options]\namounts = "vast"\n',
        "options is text": 'options = "x"\n' + GOOD,
        "start above one": GOOD + "[domain.math]\nstart = 1.5\n",
        "start nan": GOOD + "[domain.math]\nstart = nan\n",
        "start is a list of three": GOOD + "[domain.math]\nstart = [0.1, 0.2, 0.3]\n",
        "ends reversed": GOOD + "[domain.math]\nstart = [0.5, 0.2]\n",
        "below its start": GOOD + "[domain.math]\nstart = 0.9\nasymptote = 0.1\n",
        "unknown fact": GOOD + "[domain.math]\nstrat = 0.2\n",
        "fact of a stranger": GOOD + "[domain.chess]\nstart = 0.2\n",
        "domain is a number": "domain = 3\n" + GOOD,
        "conflict of strangers": GOOD + '[conflict]\n"math>chess" = 0.1\n',
        "conflict without arrow": GOOD + "[conflict]\nmath = 0.1\n",
        "conflict of three": GOOD + '[conflict]\n"math>code>math" = 0.1\n',
        "conflict enormous": GOOD + '[conflict]\n"math>code" = 1e9\n',
        "conflict nan": GOOD + '[conflict]\n"math>code" = [nan, nan]\n',
        "conflict reversed": GOOD + '[conflict]\n"math>code" = [0.5, -0.5]\n',
        "reliability": GOOD + "[reliability]\nrerun_probability = 1.0\n",
        "reliability unknown": GOOD + "[reliability]\nluck = 1.0\n",
        "pool of a stranger": GOOD + '[pool_of]\nchess = "pool"\n',
        "gpus of a stage": GOOD + "[gpus_of]\nstudent = 4096\n",
        "priority text": GOOD + '[priority]\nstudent = "first"\n',
        "inline without stages": '[recipe]\nname = "x"\n',
        "inline unknown key": '[recipe]\nname = "x"\nstagez = []\n',
        "inline loop": '[recipe]\nname = "x"\ndomains = ["math"]\namounts = "small"\n'
        '[[recipe.stages]]\nkind = "rl"\nname = "a"\ninit = "b"\ndomains = {math = 1.0}\n'
        '[[recipe.stages]]\nkind = "rl"\nname = "b"\ninit = "a"\ndomains = {math = 1.0}\n',
        "inline kind": '[recipe]\nname = "x"\ndomains = ["math"]\n[[recipe.stages]]\nkind = "magic"\nname = "a"\n',
        "inline many stages": '[recipe]\nname = "x"\ndomains = ["math"]\n'
        + "".join(f'[[recipe.stages]]\nkind = "rl"\nname = "s{n}"\n' for n in range(500)),
        "version": "schema_version = 99\n" + GOOD,
        "formula": 'recipe = "=cmd|\' /C calc\'!A0"\ndomains = ["math"]\n',
    }
    for name, text in texts.items():
        yield name, text.encode()


def tables() -> Iterator[tuple[str, bytes]]:
    """CSV tables of observations."""
    yield from BINARY.items()
    yield "xlsx", zipped()
    header = "model,gpu,gpus,mode,mean_tokens,samples_per_step,step_s,framework,precision,max_tokens"
    row = "Qwen3-30B-A3B,H100,32,On policy,3000,2048,190,NeMo-RL v0.6,BF16,4096"
    texts = {
        "huge": header + "\n" + "x" * 3_000_000,
        "header alone": header + "\n",
        "wrong columns": "a,b,c\n1,2,3\n",
        "semicolons": header.replace(",", ";") + "\n" + row.replace(",", ";") + "\n",
        "formula header": "=1+1,@SUM(A1)\n1,2\n",
        "formula cells": "model,gpu\n=cmd|' /C calc'!A0,+1\n",
        "many rows": "a\n" + "1\n" * 50_000,
        "many columns": ",".join("a" * 5000) + "\n" + ",".join("1" * 5000) + "\n",
        "a long cell": "a,b\n" + "x" * 10_000 + ",1\n",
        "an open quote": 'a,b\n"1,2\n3,4\n',
        "html": "<html><body>hi</body></html>",
        "json": '[{"model": "x"}]',
        "comments alone": "# nothing\n# more\n",
    }
    for name, text in texts.items():
        yield name, text.encode()


def configs() -> Iterator[tuple[str, bytes]]:
    """Models' config.json."""
    yield from BINARY.items()
    yield "huge", b'{"model_type": "' + b"x" * 100_000 + b'"}'
    texts = {
        "a list": "[]",
        "half": '{"model_type": "qwen3"',
        "deep": '{"a": ' * 5000 + "1" + "}" * 5000,
        "no family": "{}",
        "unknown family": '{"model_type": "qwen9"}',
        "family is a list": '{"model_type": ["qwen3"]}',
        "no sizes": '{"model_type": "no-such-family", "hidden_size": 1}',
        "negative": '{"model_type": "qwen3", "hidden_size": -1, "num_hidden_layers": 2, "num_attention_heads": 2}',
        "text config is text": '{"model_type": "qwen3", "text_config": "x"}',
    }
    yield from ((name, text.encode()) for name, text in texts.items())


def questions() -> Iterator[tuple[str, bytes]]:
    """Files for the planner."""
    yield from BINARY.items()
    good = 'domains = ["math", "code"]\ngpus = 64\nbudget_usd = 1e5\n'
    texts = {
        "no limit": 'domains = ["math"]\n',
        "unknown objective": good + 'objective = "luck"\n',
        "weights astray": good + "[weights]\nmath = 1\n",
        "minimum above one": good + "[minimum]\nmath = 2.0\n",
        "minimum nan": good + "[minimum]\nmath = nan\n",
        "families empty": good + "families = []\n",
        "families unknown": good + 'families = ["magic"]\n',
        "draws enormous": good + "draws = 10000000\n",
        "portfolio of text": good + 'portfolio = "math"\n',
        "rounds enormous": good + "max_rounds = 1000\n",
        "recipe": good + 'recipe = "mopd"\n',
        "many domains": f"domains = {json.dumps([f'math?{n}' for n in range(100)])}\nbudget_usd = 1e5\n",
        "deep arrays": "a = " + "[" * 5000 + "]" * 5000,
        "endless number": "gpus = " + "9" * 5000,
    }
    for name, text in texts.items():
        yield name, text.encode()


def tokens() -> Iterator[tuple[str, str]]:
    """Views in a link."""

    def packed(text: bytes) -> str:
        return base64.urlsafe_b64encode(zlib.compress(text)).decode().rstrip("=")

    yield "empty", ""
    yield "words", "hello world"
    yield "not base64", "%%%%"
    yield "base64 of nothing", "AAAA"
    yield "cut", packed(b'{"choice": {"teachers": 3}}')[:-6]
    yield "a bomb", packed(bytes(50_000_000))
    yield "long", "A" * 100_000
    yield "no json", packed(b"{choice")
    yield "a list", packed(b"[]")
    yield "a number", packed(b"3")
    yield "deep", packed(b"[" * 100_000)
    for name, document in {
        "unknown key": {"choyce": {}},
        "unknown field": {"choice": {"teecher": 3}},
        "unknown preset": {"choice": {"preset": "x"}},
        "teachers negative": {"choice": {"teachers": -1}},
        "teachers many": {"choice": {"teachers": 10**9}},
        "gpus text": {"choice": {"gpus": "many"}},
        "gpus enormous": {"choice": {"gpus": 10**12}},
        "conflict far": {"choice": {"conflict": 1e9}},
        "quality zero": {"choice": {"quality": 0}},
        "recipe unknown": {"choice": {"recipe": "x"}},
        "model path": {"choice": {"model": "/etc"}},
        "groups of strangers": {"choice": {"groups": [["chess"]]}},
        "pairs of strangers": {"choice": {"pairs": [["a", "b", 0, 1]]}},
        "own is no toml": {"choice": {"own": "]["}},
        "own with many draws": {"choice": {"own": GOOD + "draws = 90000\n"}},
        "a fourth pinned": {"pinned": {"D": {}}},
        "pinned is bad": {"pinned": {"A": {"preset": "x"}}},
    }.items():
        yield name, packed(json.dumps(document).encode())
    yield "nan", packed(b'{"choice": {"conflict": NaN}}')
    yield "infinity", packed(b'{"choice": {"budget_usd": Infinity}}')
