"""The planner's parts: the question, candidates and what they come to, the search, and what to make of its result.

Layers, downward: `answer` (with `information`, `sensitivity`, `flips`, `portfolio`) reads `explore`, which reads
`evaluation` (`assembled`, `tabulated`, `stock`), which reads `candidate` and `question`.
Leaves out: the command (`mopdsim.plan_command`), the app.
"""
