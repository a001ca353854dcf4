"""Measure serving: answers a second beside transformers, swaps under load, and a canary's decisions by simulation.

    python benchmarks/serving.py [--json FILE] [--quick] [--only answers,swaps,vllm,canary]

"Answers" (serving_answers.py): eight people ask the in-process engine at the same time, one release or three adapters,
beside `generate` for one request after another; and how soon a thread's next turn begins. "Swaps" (serving_swaps.py):
sixteen people while the champion changes. "vLLM" (serving_vllm.py): the same on a real server. "Canary"
(serving_canary.py): thousands of rollouts of releases that are as good, and of such that are not.
"""

from __future__ import annotations

from parts import Part, run

if __name__ == "__main__":  # the processes that the swaps start come by here, too, and need none of these
    import serving_answers
    import serving_canary
    import serving_swaps
    import serving_vllm

    run(
        __doc__,
        {
            "answers": Part(serving_answers.answers, serving_answers.met, serving_answers.show),
            "swaps": Part(serving_swaps.swaps, serving_swaps.met, serving_swaps.show),
            "vllm": Part(serving_vllm.swaps, serving_vllm.met, serving_vllm.show),
            "canary": Part(serving_canary.canary, serving_canary.met, serving_canary.show),
        },
    )
