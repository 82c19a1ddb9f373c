"""Domains of the reasoning-gym library: `reasoning_gym:FAMILY?key=value`.

Keys are the shared dials, the family's own configuration (`reasoning_gym:chain_sum?min_terms=2&max_terms=3`),
`seed` (default 0) and `size`, the number of items in the pool that prompts are drawn from (default 10000).
Splits follow a hash of the question; grading is the library's own, which gives partial credit in places. The
library is imported when a task is made.

`extract` says which part of a response is graded: `tags` (within the last <answer> and </answer>), `number` (the last
number), `line` (the last line) or `whole`. By default `auto`: what the question itself asks for, tags where it names
them, a number where it asks for the final answer alone and that is a number, else the whole response.

Facts below about single families were measured on reasoning-gym 0.1.25.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import os
import random
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from trainer.tasks.base import Item, Options, Procedural, shared_dials
from trainer.tasks.numbers import numbers_in

SCHEME: Final = "reasoning_gym"
POOL: Final = 10_000
FAILURES_IN_A_ROW: Final = 20

REFUSED: Final[Mapping[str, str]] = {
    "composite": "it needs a nested configuration; name its member families as domains of their own",
    "game_of_life_halting": "its grader accepts every response that is not empty; choose another family",
}
HASH_ORDERED: Final = frozenset(
    ["codeio", "isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"]
)
"""Families whose items follow the order of Python sets of strings, which differs from process to process."""
EVALUATES_LITERALS: Final = frozenset(["binary_matrix", "n_queens", "spiral_matrix", "string_insertion"])
"""Families whose graders call `eval` to read a response as a list: they get `ast.literal_eval` instead."""
EVALUATES_ARITHMETIC: Final = frozenset(
    ["countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"]
)
"""Families whose graders call SymPy's `parse_expr`: what is not plain arithmetic is graded as empty."""
EXTRACTIONS: Final = ("auto", "tags", "number", "line", "whole")
_TAGS: Final = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER: Final = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)")
_ANSWER_ALONE: Final = re.compile(
    r"final (?:answer|value)|only the (?:result|number|angle)|single number|as your answer", re.IGNORECASE
)
_WRONG_SHAPE: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError)
PAYS_FOR_NEARNESS: Final = frozenset(["complex_arithmetic", "polynomial_equations"])
"""Families whose graders pay for numbers near the answer, so much that a constant reply earns a third and more: here
they give full marks or none, and none for a reply that is no finite number."""
PAYS_FOR_DIGITS: Final = frozenset(["coin_flip"])
"""Families whose graders pay for the first digits of a decimal, all of them for '0': the number itself is compared."""
_FULL_MARKS: Final = 0.999
_TOLERANCE: Final = Fraction(1, 10_000)  # of PAYS_FOR_DIGITS, as in their graders
_NOT_FINITE: Final = re.compile(r"nan|inf", re.IGNORECASE)
REJECTS_BY_RAISING: Final[Mapping[str, tuple[type[Exception], ...]]] = {
    "boxnet": _WRONG_SHAPE,
    "complex_arithmetic": (OverflowError,),
    "game_of_life": _WRONG_SHAPE,
    "prime_factorization": (ValueError,),
}
"""Families whose graders raise, rather than score 0, on a response they cannot read."""
LONGEST_EXPRESSION: Final = 400
LARGEST_NUMBER: Final = 10**9
LARGEST_EXPONENT: Final = 100
FUNCTIONS: Final = frozenset(
    ["exp", "log", "sqrt", "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh"]
)
_OPERATORS: Final = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)


@dataclass(frozen=True, kw_only=True)
class GymTask(Procedural):
    """One reasoning-gym family with its configuration."""

    family: str
    config: tuple[tuple[str, Any], ...]
    extract: str

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """An item of the pool. Rare places where the family's generator gives up are passed over."""
        size = len(_dataset(self.family, self.config))
        failures: list[Exception] = []
        while len(failures) < FAILURES_IN_A_ROW:
            try:
                return _entry(self.family, self.config, rng.randrange(size))
            except Exception as error:
                failures.append(error)
        raise UsageError(
            f"domain {self.spec!r}: no item generated in {FAILURES_IN_A_ROW} tries; change its dials"
        ) from failures[-1]

    def split_text(self, content: dict[str, Any]) -> str:
        question: str = content["question"]
        return question

    def build(self, content: dict[str, Any], rng: random.Random) -> Item:
        answer = content["answer"]
        return Item(
            domain=self.spec,
            prompt=content["question"],
            answer="" if answer is None else answer,
            data={"entry": content},
        )

    def demonstrate(self, item: Item, rng: random.Random) -> tuple[str, ...]:
        """The reference answer; when corrupted, another item's that scores less than 1 here."""
        if item.data["entry"]["answer"] is None:
            raise UsageError(
                f"domain {self.spec!r}: the family gives no reference answers, so it cannot be demonstrated; "
                "leave it out of supervised stages"
            )
        if rng.random() >= self.corruption:
            return (item.answer,)
        return (self.wrong_answer(item, lambda: str(self.draw(rng)["answer"])),)

    def grade(self, item: Item, turns: Sequence[str]) -> float:
        (response,) = turns
        response = extracted(response, self._part(item)).strip()
        trusted = response == item.answer or self.family not in EVALUATES_ARITHMETIC
        if not trusted and not is_arithmetic(response):
            response = ""
        if self.family in PAYS_FOR_DIGITS:
            said, right = numbers_in(response), Fraction(item.answer)
            return float(bool(said) and abs(said[-1] - right) <= _TOLERANCE)
        near = self.family in PAYS_FOR_NEARNESS
        if near and _NOT_FINITE.search(response):
            return 0.0
        dataset = _dataset(self.family, self.config)
        try:
            with redirect_stdout(sys.stderr):
                score = float(dataset.score_answer(response, item.data["entry"]))
            return float(score >= _FULL_MARKS) if near else score
        except REJECTS_BY_RAISING.get(self.family, ()):
            return 0.0

    def _part(self, item: Item) -> str:
        """The extraction in use: for `auto` the one that the question asks for."""
        if self.extract != "auto":
            return self.extract
        if "<answer>" in item.prompt:
            return "tags"
        asked = _ANSWER_ALONE.search(item.prompt) and _NUMBER.fullmatch(item.answer)
        return "number" if asked else "whole"


def extracted(response: str, part: str) -> str:
    """The part of a response that is graded (see the module); empty where it has none."""
    match part:
        case "tags":
            return next(reversed(_TAGS.findall(response)), "")
        case "number":
            return next(reversed(_NUMBER.findall(response)), "")
        case "line":
            return next(reversed(response.strip().splitlines()), "")
    return response


def gym_task(options: Options) -> GymTask:
    """The task of a `reasoning_gym:` spec.

    Raises NotFoundError for an unknown family, UsageError for a bad key or value or a family of REFUSED.
    """
    from reasoning_gym.factory import DATASETS

    family = options.argument
    if family not in DATASETS:
        raise NotFoundError(f"reasoning_gym has no family {family!r}{did_you_mean(family, DATASETS)}")
    if family in REFUSED:
        raise UsageError(f"reasoning_gym:{family} cannot be used: {REFUSED[family]}")
    if family in HASH_ORDERED and os.environ.get("PYTHONHASHSEED", "random") == "random":
        raise UsageError(
            f"reasoning_gym:{family} draws other items in every process; start with PYTHONHASHSEED=0 in the "
            "environment"
        )
    dials = shared_dials(options, corruption=0.0, max_new_tokens=128)
    extract = options.choice("extract", "auto", EXTRACTIONS)
    given = {"seed": 0, "size": POOL} | _configuration(options, DATASETS[family][1])
    task = GymTask(family=family, config=tuple(sorted(given.items())), extract=extract, **dials)
    try:
        _dataset(task.family, task.config)
    except (AssertionError, ValueError) as error:
        raise UsageError(f"task spec {options.spec!r}: {error}") from error
    return task


def _configuration(options: Options, config_class: type) -> dict[str, Any]:
    """The family's own keys of the spec, read by the type of their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)} | {"seed": 0}
    found: dict[str, Any] = {}
    for key in set(options.given) & set(defaults):
        match defaults[key]:
            case bool() as default:
                found[key] = options.choice(key, str(default).lower(), ("true", "false")) == "true"
            case int() as default:
                found[key] = options.whole(key, default, least=-(10**9), most=10**9)
            case float() as default:
                found[key] = options.number(key, default, least=-math.inf)
            case str() as default:
                found[key] = options.text(key, default)
            case _:
                raise options.error(key, "left out: a spec holds numbers, words, true and false only")
    options.close(also=defaults)
    return found


@lru_cache(maxsize=64)
def _dataset(family: str, config: tuple[tuple[str, Any], ...]) -> Any:
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(family, **dict(config))
    if family in EVALUATES_LITERALS:
        vars(sys.modules[type(dataset).__module__])["eval"] = ast.literal_eval
    return dataset


@lru_cache(maxsize=16_384)
def _entry(family: str, config: tuple[tuple[str, Any], ...], index: int) -> dict[str, Any]:
    with redirect_stdout(sys.stderr):  # some families print while they generate
        entry: dict[str, Any] = _dataset(family, config)[index]
    return entry


def is_arithmetic(text: str) -> bool:
    """May a grader evaluate `text` (`parse_expr` evaluates Python: it could run code, or hang with `9**9**9`)? It may
    where it is numbers, names, + - * / **, parentheses and calls of FUNCTIONS, and cheap to evaluate?

    Cheap: no power within a power, no call within a call, exponents plain numbers up to LARGEST_EXPONENT or
    their quotients.
    """
    if len(text) > LONGEST_EXPRESSION:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _allowed(tree.body, in_power=False, in_call=False)


def _allowed(node: ast.expr, *, in_power: bool, in_call: bool) -> bool:
    match node:
        case ast.Constant(value=bool()):
            return False
        case ast.Constant(value=int() | float() as value):
            return abs(value) <= LARGEST_NUMBER
        case ast.Name():
            return True
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _allowed(operand, in_power=in_power, in_call=in_call)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return not in_power and _is_exponent(exponent) and _allowed(base, in_power=True, in_call=in_call)
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _OPERATORS):
            return all(_allowed(side, in_power=in_power, in_call=in_call) for side in (left, right))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return not in_call and name in FUNCTIONS and _allowed(argument, in_power=in_power, in_call=True)
    return False


def _is_exponent(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=int() | float() as value):
            return abs(value) <= LARGEST_EXPONENT
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _is_exponent(operand)
        case ast.BinOp(left=ast.expr() as left, op=ast.Div(), right=right):
            return _is_exponent(left) and _is_exponent(right)
    return False
