"""Asks verl's own code whether exported configurations are sound. Run with verl on the path: verl_check.py FOLDER.

Composes each STAGE/config.yaml with hydra, compares its keys with verl's defaults, converts it to verl's dataclasses
and calls validate_config. Prints a line of JSON for each stage: its name and what is wrong, or null.
"""

import contextlib
import functools
import io
import json
import sys
from pathlib import Path

import verl.trainer
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

FREE = ("export_root", "hydra", "defaults")  # ours, and hydra's own
OPEN = (
    "distillation.teacher_models",
    "ray_kwargs.ray_init.runtime_env.env_vars",
)  # tables whose keys are free


def unknown(own, known, path=""):
    """Keys of a configuration that the defaults lack."""
    for key, value in own.items():
        where = f"{path}.{key}" if path else str(key)
        if where in OPEN:
            continue
        if key not in known:
            yield where
        elif isinstance(value, dict) and isinstance(known[key], dict):
            yield from unknown(value, known[key], where)


@functools.cache
def defaults(base):
    """verl's own configuration of this name, unresolved."""
    with initialize_config_dir(str(Path(verl.trainer.__file__).parent / "config"), version_base=None):
        return OmegaConf.to_container(compose(base), resolve=False)


def check(folder):
    own = OmegaConf.load(folder / "config.yaml")
    base = own.defaults[0]
    override = [f"export_root={folder.parent}"]
    with initialize_config_dir(str(folder), version_base=None):
        config = compose("config", overrides=override)
    plain = OmegaConf.to_container(own, resolve=False)
    extra = [key for key in unknown(plain, defaults(base)) if key.split(".")[0] not in FREE]
    if extra:
        return f"unknown keys {extra}"
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    if base == "sft_trainer_engine":
        for part in ("optim", "engine", "checkpoint"):
            omega_conf_to_dataclass(config[part])
        return None
    from verl.trainer.ppo.utils import need_critic, need_reference_policy

    for part in (config.algorithm, config.actor_rollout_ref.rollout, config.distillation):
        omega_conf_to_dataclass(part)
    validate_config(config, need_reference_policy(config), need_critic(config))
    OmegaConf.to_container(config, resolve=True)
    return None


for place in sorted(Path(sys.argv[1]).glob("*/config.yaml")):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            found = check(place.parent.resolve())
        except Exception as error:  # what verl raises is the answer
            found = f"{type(error).__name__}: {error}"
    print(json.dumps({"stage": place.parent.name, "wrong": found}))
