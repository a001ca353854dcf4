"""The nouns of the loop: frozen records that the rooms hand to each other.

Read this folder first. A record holds no behaviour beyond its own identity; ids of data are content hashes, ids of
events are given by whoever saw the event. Unknown is None, never 0.
"""

from langgraph_learnloop.records.answers import EngineHealth, Generated, Generation, Probe, TokenLogprob
from langgraph_learnloop.records.base import Record, content_hash
from langgraph_learnloop.records.cycles import CycleOutcome, CycleReport, Decision
from langgraph_learnloop.records.evaluation import (
    Case,
    CaseResult,
    Gate,
    Judged,
    NodeCredit,
    Remembered,
    Score,
    Scorecard,
    ShipVerdict,
    Suite,
)
from langgraph_learnloop.records.examples import Dataset, Example, Origin, Proposal, Split, Verdict
from langgraph_learnloop.records.feedback import FLAG_MOVES, Feedback, Flag, FlagState
from langgraph_learnloop.records.releases import LONGEST_KNOWLEDGE, LONGEST_SHOTS, MOST_SHOTS, Release, Sampling
from langgraph_learnloop.records.rollouts import (
    ROLLOUT_MOVES,
    Rollout,
    RolloutMode,
    RolloutState,
    Routes,
    Server,
    ShadowAnswer,
)
from langgraph_learnloop.records.runs import COMPRESSION, Interned, Message, Outcome, Recorded, Run, Step, ToolCall
from langgraph_learnloop.records.training import Job, Plan, Progress, Recipe, TrainingResult, Trial
from langgraph_learnloop.records.weaknesses import Near, RunPoint, Similar, Weakness

__all__ = [
    "COMPRESSION",
    "FLAG_MOVES",
    "LONGEST_KNOWLEDGE",
    "LONGEST_SHOTS",
    "MOST_SHOTS",
    "ROLLOUT_MOVES",
    "Case",
    "CaseResult",
    "CycleOutcome",
    "CycleReport",
    "Dataset",
    "Decision",
    "EngineHealth",
    "Example",
    "Feedback",
    "Flag",
    "FlagState",
    "Gate",
    "Generated",
    "Generation",
    "Interned",
    "Job",
    "Judged",
    "Message",
    "Near",
    "NodeCredit",
    "Origin",
    "Outcome",
    "Plan",
    "Probe",
    "Progress",
    "Proposal",
    "Recipe",
    "Record",
    "Recorded",
    "Release",
    "Remembered",
    "Rollout",
    "RolloutMode",
    "RolloutState",
    "Routes",
    "Run",
    "RunPoint",
    "Sampling",
    "Score",
    "Scorecard",
    "Server",
    "ShadowAnswer",
    "ShipVerdict",
    "Similar",
    "Split",
    "Step",
    "Suite",
    "TokenLogprob",
    "ToolCall",
    "TrainingResult",
    "Trial",
    "Verdict",
    "Weakness",
    "content_hash",
]
