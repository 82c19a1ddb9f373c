"""What a stage costs: tokens, FLOPs, bytes, memory and seconds. Pure functions of numpy arrays.

generation  response lengths, replicas, a decode step, a whole batch with its shrinking tail
training    layouts, bytes per GPU, one optimizer step
rlstep      phases of a reinforcement-learning or distillation step
constants   what was fitted, with spread, grade and provenance, software stacks too (by `mopdsim.fit`, never here)
stage_*     one stage of a recipe: its sequences, the seconds of its step, its bill
"""
