"""Measure examinations: by simulation, how often the gates let a candidate pass that must not; and what replays do.

    python benchmarks/evaluation.py [--json FILE] [--quick] [--only gates,replay]

"Gates" (evaluation_gates.py): every experiment draws the answers of a champion and a candidate and asks the package's
own gates. "Nulls" are candidates that a gate must stop, each at the very edge of what it must stop
(evaluation_nulls.py: right and wrong answers; evaluation_measures.py: scores, seconds and dollars). A gate keeps its
promise where at most `alpha` of them pass. Better candidates, beside the usual rules, are in evaluation_power.py.
"Replay" (evaluation_replay.py): recorded runs are run again.
"""

from __future__ import annotations

import evaluation_gates
import evaluation_replay
from parts import Part, run

if __name__ == "__main__":
    run(
        __doc__,
        {
            "gates": Part(evaluation_gates.simulations, evaluation_gates.met, evaluation_gates.show),
            "replay": Part(evaluation_replay.replays, evaluation_replay.met, evaluation_replay.show),
        },
    )
