"""Datasets, examinations and instructions in Langfuse, over real HTTP to a server of this test: each once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.cases import make_case
from langgraph_learnloop.integrations.langfuse_datasets import cases_from_langfuse
from langgraph_learnloop.integrations.langfuse_lessons import (
    prompt_name,
    send_champion,
    send_dataset,
    send_examination,
)
from langgraph_learnloop.integrations.langfuse_lessons_experiments import ENVIRONMENT
from langgraph_learnloop.integrations.langfuse_wire import Wire, trace_of
from langgraph_learnloop.mirrors import DeliveryError, ToldChampion, ToldDataset, ToldExamination
from langgraph_learnloop.records import (
    CaseResult,
    Dataset,
    Example,
    Gate,
    Message,
    Release,
    Scorecard,
    ToolCall,
)
from tests.integrations.langfuse_people import wire_to
from tests.integrations.loopback_langfuse import Langfuse
from tests.integrations.loopback_langfuse_experiments import experiment_id
from tests.integrations.loopback_langfuse_observations import Observation
from tests.shop import Shop

langfuse = pytest.importorskip("langfuse", reason="Langfuse is not installed")

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUN = "0199d3a5-7a1c-7000-8000-2b7e151628ae"
FIND: Any = {"type": "function", "function": {"name": "find_order", "parameters": {"type": "object"}}}
BASE = Release(base_model="tiny", made_at=AT)
BETTER = Release(base_model="tiny", instructions="Be brief.", made_at=AT)
SPANS, ITEMS = "POST /api/public/otel", "POST /api/public/dataset-items"


@pytest.fixture
def wire(project: Langfuse) -> Wire:
    return wire_to(project)


def says(words: str) -> Message:
    return Message(role="assistant", content=words)


def calls(*numbers: int, content: str = "") -> Message:
    made = tuple(ToolCall(name="find_order", args={"order": number}, id=f"call_{number}") for number in numbers)
    return Message(role="assistant", content=content, tool_calls=made)


def asks(words: str) -> Message:
    return Message(role="user", content=words)


def example(chosen: Message, number: int = 0, **more: Any) -> Example:
    told: dict[str, Any] = {"origin": "correction", "split": "train", "review": "approved", **more}
    return Example(messages=(asks(f"Question {number}"),), tools=(FIND,), chosen=chosen, **told)


def dataset(*examples: Example, **more: Any) -> ToldDataset:
    counts = {"correction": {"train": 2, "heldout": 1}}
    made = Dataset(version="d" * 32, parent="c" * 32, counts=counts, path="x.jsonl", made_at=AT)
    return ToldDataset(made, examples, **more)


# -- datasets ----------------------------------------------------------------------------------------------------------


def test_what_was_sent_is_read_back_as_the_same_cases(project: Langfuse, wire: Wire) -> None:
    """Texts, calls, several calls, text beside a call, and conversations with tools' results go there and back."""
    history = (
        Message(role="system", content="Help."),
        asks("Where is it?"),
        calls(4),
        Message(role="tool", content="Lost.", tool_call_id="call_4", name="find_order"),
        asks("And now?"),
    )
    chosen = [says("Berlin"), says('{"a": 1}'), calls(5), calls(5, 6), calls(7, content="I look.")]
    examples = [example(right, number, run_id=RUN) for number, right in enumerate(chosen)]
    examples.append(example(says("Sorry"), 9).model_copy(update={"messages": history}))
    send_dataset(wire, dataset(*examples))
    client = project.client(tracing_enabled=False)
    cases = cases_from_langfuse(f"learnloop-{'d' * 12}", client, suite="target")
    assert [case.messages for case in cases] == [one.messages for one in examples]
    assert all(
        case.expected is not None and case.expected.alike(one.chosen) for case, one in zip(cases, examples, strict=True)
    )
    assert [case.category for case in cases] == [one.category for one in examples]


def test_items_say_where_they_come_from(project: Langfuse, wire: Wire) -> None:
    """Metadata, tools, and the trace of the run: the one that another tracer keeps of it, if one does."""
    other = "0199d3a5-7a1c-7000-8000-000000000000"
    one = example(calls(5), by="ann", run_id=RUN, rejected=says("No idea."))
    two = example(says("Yes"), 2, run_id=other, split="heldout", origin="teacher")
    send_dataset(wire, dataset(one, two, example(says("Hm"), 3), traces={other: "f" * 32}))
    first, second, third = project.dataset_items.values()
    assert first["sourceTraceId"] == trace_of(RUN)
    assert second["sourceTraceId"] == "f" * 32
    assert third.get("sourceTraceId") is None
    assert first["input"] == {"messages": [{"role": "user", "content": "Question 0"}], "tools": [FIND]}
    assert first["metadata"] == {
        "origin": "correction",
        "split": "train",
        "category": "find_order",
        "by": "ann",
        "review": "approved",
        "example": one.example_id,
        "run": RUN,
        "agent_said": "No idea.",
    }
    made = project.datasets[f"learnloop-{'d' * 12}"]
    assert made["metadata"]["parent"] == "c" * 32
    assert "correction: 2 train, 1 heldout" in made["description"]


def test_only_what_is_new_is_sent(project: Langfuse, wire: Wire) -> None:
    """No replay and no validation, unless replay is asked for."""
    told = dataset(
        example(says("a"), 1),
        example(says("b"), 2, origin="replay"),
        example(says("c"), 3, split="validation"),
        example(says("d"), 4, origin="variation"),
    )
    send_dataset(wire, told)
    assert sorted(item["expectedOutput"] for item in project.dataset_items.values()) == ["a", "d"]
    send_dataset(wire, told, replay=True)
    assert sorted(item["expectedOutput"] for item in project.dataset_items.values()) == ["a", "b", "d"]


def test_what_people_changed_there_stays(project: Langfuse, wire: Wire) -> None:
    """The same again adds what is missing, and writes nothing over; a dataset that was renamed keeps its items."""
    told = dataset(*(example(says(str(number)), number) for number in range(120)))
    send_dataset(wire, told)
    edited, gone = list(project.dataset_items)[:2]
    project.dataset_items[edited].update(expectedOutput="better", status="ARCHIVED")
    del project.dataset_items[gone]
    project.log.clear()
    send_dataset(wire, told)
    assert project.log.count(ITEMS) == 1
    assert len(project.dataset_items) == 120
    assert project.dataset_items[edited]["expectedOutput"] == "better"
    renamed = project.datasets.pop(f"learnloop-{'d' * 12}")
    project.datasets["ours"] = renamed | {"name": "ours"}
    for item in project.dataset_items.values():
        item["datasetName"] = "ours"
    send_dataset(wire, told)
    assert len(project.dataset_items) == 240


@pytest.mark.parametrize(
    ("status", "arrived", "forever"), [(500, None, False), (429, False, False), (401, False, False), (413, False, True)]
)
def test_a_failure_says_what_is_known(
    project: Langfuse, wire: Wire, status: int, arrived: bool | None, forever: bool
) -> None:
    """What may be tried again is told from what will never be taken, and how long to wait; then it goes on."""
    told = dataset(example(says("a"), 1), example(says("b"), 2))
    project.fail(1.0, [str(status)], [ITEMS], times=1)
    project.retry_after, project.retry_statuses = 17.0, {status}
    with pytest.raises(DeliveryError, match=str(status)) as failed:
        send_dataset(wire, told)
    error = failed.value
    assert (error.arrived, error.forever) == (False if forever else arrived, forever)
    assert error.retry_after == (None if forever else 17.0)
    send_dataset(wire, told)
    assert len(project.dataset_items) == 2


def test_one_item_that_is_refused_keeps_no_other_away(project: Langfuse, wire: Wire) -> None:
    """The others are there, and the sentence says how many are not, and why."""
    told = dataset(*(example(says(str(number)), number) for number in range(4)))
    project.fail(1.0, ["400"], [ITEMS], times=1)
    with pytest.raises(DeliveryError, match=r"1 of 4 items are not shown\. .*400") as failed:
        send_dataset(wire, told)
    assert failed.value.forever
    assert len(project.dataset_items) == 3


def test_nobody_there() -> None:
    """Nothing arrived, and that is known; a server that is silent leaves it open."""
    with pytest.raises(DeliveryError, match="cannot be reached") as failed:
        send_dataset(Wire("pk", "sk", "http://127.0.0.1:1", seconds=1), dataset(example(says("a"))))
    assert (failed.value.arrived, failed.value.forever) == (False, False)


def test_hostile_texts_are_stored(project: Langfuse, wire: Wire) -> None:
    """Half a character, NUL, what is no number, and a number that no database holds."""
    args = {"a": "\ud800\x00", "b": float("nan"), "c": 10**400, "d": ["😀"]}
    chosen = Message(role="assistant", tool_calls=(ToolCall(name="find_order", args=args),))
    send_dataset(wire, dataset(example(chosen, by="\ud800")))
    (item,) = project.dataset_items.values()
    assert item["expectedOutput"]["args"] == {"a": "\ufffd\ufffd", "b": None, "c": 10**400, "d": ["😀"]}


# -- examinations ------------------------------------------------------------------------------------------------------

CASES = tuple(make_case("target", [asks(f"Case {number}")], calls(number), run_id=RUN) for number in range(3))


def examination(*, at: datetime = AT, **more: Any) -> ToldExamination:
    """Return an examination in which the candidate is right, and could not be judged on the last case."""
    wrong = says("No idea.")
    results = {
        BETTER.release_id: tuple(result(BETTER, number, calls(number), True) for number in range(2)),
        BASE.release_id: tuple(result(BASE, number, wrong, False) for number in range(3)),
    }
    gate = Gate(
        name="target",
        required=True,
        passed=True,
        metric="right",
        champion=0.0,
        candidate=1.0,
        cases=2,
        because="It is right more often.",
    )
    unjudged = result(BETTER, 2, says("?"), None).model_copy(update={"scores": {}, "error": "It timed out."})
    card = Scorecard(
        candidate=BETTER.release_id,
        champion=BASE.release_id,
        gates=(gate,),
        dataset="d" * 32,
        evaluator="calls 1",
        unjudged=(unjudged,),
        at=at,
    )
    return ToldExamination(card, BETTER, BASE, CASES, results)._replace(**more)


def result(release: Release, number: int, got: Message, right: bool | None) -> CaseResult:
    return CaseResult(
        release_id=release.release_id,
        case_id=CASES[number].case_id,
        evaluator="calls 1",
        scores={"right": right, "close": None if right is None else float(right) / 2, "tone": None},
        got=(got,),
        comment="As it should be." if right else None,
        seconds=1.5,
    )


def runs_of(project: Langfuse, name: str = "experiment-item-run") -> list[Observation]:
    return [span for span in project.spans if span.name == name]


def test_an_examination_is_two_experiments(project: Langfuse, wire: Wire) -> None:
    """An item and its task for each answer, tied to the dataset of the cases as Langfuse's own SDK ties them."""
    send_examination(wire, examination(), doubtful=False)
    made = project.datasets[f"learnloop-cases-{'d' * 12}"]
    assert len(project.dataset_items) == 3
    assert [len(runs_of(project)), len(runs_of(project, "experiment-item-task"))] == [6, 6]
    experiments = {
        (s.attributes["langfuse.experiment.name"], s.attributes["langfuse.experiment.id"]) for s in project.spans
    }
    names = [
        f"{role} {release.release_id} 2026-03-01T12:00:00+00:00"
        for role, release in (("candidate", BETTER), ("champion", BASE))
    ]
    assert experiments == {(name, experiment_id(project.project_id, made["id"], name)) for name in names}
    for run in runs_of(project):
        (task,) = [span for span in project.spans if span.parent_id == run.id]
        known = run.attributes
        item = project.dataset_items[known["langfuse.experiment.item.id"]]
        assert task.trace_id == run.trace_id
        assert known["langfuse.experiment.item.root_observation_id"] == task.id
        assert known["langfuse.experiment.dataset.id"] == made["id"] == item["datasetId"]
        assert known["langfuse.environment"] == ENVIRONMENT
        assert json.loads(known["langfuse.observation.input"]) == item["input"]
        assert json.loads(known["langfuse.experiment.item.expected_output"]) == item["expectedOutput"]
        assert known == task.attributes
    assert len({span.id for span in project.spans}) == 12


def test_the_sdk_makes_the_same_experiment(project: Langfuse, wire: Wire) -> None:
    """What its `run_experiment` says of an item, our observations say: the same attributes, and the same id."""
    send_examination(wire, examination(), doubtful=False)
    ours = runs_of(project)[0].attributes
    project.lose(list(project.spans))
    client = project.client()
    cases = client.get_dataset(f"learnloop-cases-{'d' * 12}")
    cases.run_experiment(name="ours", run_name=ours["langfuse.experiment.name"], task=lambda *, item, **_: "yes")
    client.flush()
    theirs = runs_of(project)[0].attributes
    assert theirs["langfuse.experiment.id"] == ours["langfuse.experiment.id"]
    assert {key for key in theirs if key.startswith("langfuse.experiment.")} <= ours.keys()


def test_figures_and_gates_are_scores(project: Langfuse, wire: Wire) -> None:
    """Each answer's figures are on its task, what the gates said on the experiments; not judged is no score."""
    send_examination(wire, examination(), doubtful=False)
    tasks = {span.id: span for span in runs_of(project, "experiment-item-task")}
    on_answers = [score for score in project.scores.values() if score["traceId"]]
    assert len(on_answers) == 10  # five judged answers, two figures each
    assert all(tasks[score["observationId"]].trace_id == score["traceId"] for score in on_answers)
    assert {(s["name"], s["dataType"], s["value"]) for s in on_answers} == {
        ("right", "BOOLEAN", 1.0),
        ("right", "BOOLEAN", 0.0),
        ("close", "NUMERIC", 0.5),
        ("close", "NUMERIC", 0.0),
    }
    on_experiments = {
        (score["name"], score["value"], score["comment"]) for score in project.scores.values() if score["datasetRunId"]
    }
    assert on_experiments == {
        ("target", 1.0, "right"),
        ("target", 0.0, "right"),
        ("gate target", 1.0, "It is right more often."),
        ("verdict", "ship", "It is right more often."),
    }


def test_what_could_not_be_judged_is_an_error(project: Langfuse, wire: Wire) -> None:
    """It stands there with its reason, and has no score."""
    send_examination(wire, examination(), doubtful=False)
    (bad,) = [s for s in runs_of(project) if s.attributes.get("langfuse.observation.level") == "ERROR"]
    assert bad.attributes["langfuse.observation.status_message"] == "It timed out."
    assert not [score for score in project.scores.values() if score["traceId"] == bad.trace_id]


def test_another_examination_of_the_same_has_its_own(project: Langfuse, wire: Wire) -> None:
    """On the same dataset of cases, whose items are not sent again; no observation has the id of another."""
    send_examination(wire, examination(), doubtful=False)
    send_examination(wire, examination(at=AT.replace(hour=13)), doubtful=False)
    assert len({span.id for span in project.spans}) == len(project.spans) == 24
    assert len(project.dataset_items) == 3
    assert len(project.datasets) == 1


@pytest.mark.parametrize("arrays", ["accepted", "refused"])
def test_scores_that_fail_leave_the_traces_in_doubt(project: Langfuse, wire: Wire, arrays: str) -> None:
    """The spans arrived: it is told again as doubtful, and they are not sent a second time."""
    project.score_arrays, project.retry_after = arrays, 5.0
    project.fail(1.0, ["429"], ["POST /api/public/scores"], times=1)  # without the 5 seconds it is tried again at once
    with pytest.raises(DeliveryError) as failed:
        send_examination(wire, examination(), doubtful=False)
    assert failed.value.arrived is None
    send_examination(wire, examination(), doubtful=True)
    assert len(project.spans) == 12
    assert len(project.scores) == 14


def test_what_is_missing_is_sent_and_nothing_twice(project: Langfuse, wire: Wire) -> None:
    """Of an examination of which a part arrived, the rest; other observations of the release do not count."""
    send_examination(wire, examination(at=AT.replace(hour=13)), doubtful=False)
    send_examination(wire, examination(), doubtful=False)
    whole = {span.id for span in project.spans}
    project.lose(project.spans[15:19])
    send_examination(wire, examination(), doubtful=True)
    assert {span.id for span in project.spans} == whole
    assert len(project.spans) == 24


def test_without_an_answer_about_what_is_there_nothing_is_sent(project: Langfuse, wire: Wire) -> None:
    """Doubt stays doubt, whatever the server says to the question."""
    for status in ("500", "400", "429"):
        project.fail(1.0, [status], ["GET /api/public/v2/observations"], times=1)
        with pytest.raises(DeliveryError) as failed:
            send_examination(wire, examination(), doubtful=True)
        assert (failed.value.arrived, failed.value.forever) == (None, False)
    assert project.spans == []


@pytest.mark.parametrize("step", ["POST /api/public/v2/datasets", ITEMS, "GET /api/public/projects", SPANS])
def test_what_failed_before_the_traces_is_no_doubt(project: Langfuse, wire: Wire, step: str) -> None:
    """Nothing of what cannot be sent twice was sent, and the same again is whole."""
    project.fail(1.0, ["503"], [step], times=1)
    with pytest.raises(DeliveryError) as failed:
        send_examination(wire, examination(), doubtful=False)
    if step != "GET /api/public/projects":
        assert failed.value.arrived is False
    assert not failed.value.forever
    send_examination(wire, examination(), doubtful=False)
    assert len(project.spans) == len({span.id for span in project.spans}) == 12


# -- instructions ------------------------------------------------------------------------------------------------------


def serves(project: Langfuse, instructions: str | None, agent: str = "support") -> Release:
    """Tell which release serves."""
    release = Release(base_model="tiny", instructions=instructions, made_at=AT)
    send_champion(wire_to(project), ToldChampion(release, agent, "because"))
    return release


def versions(project: Langfuse) -> list[dict[str, Any]]:
    """Return the versions of the only prompt; none where there is none."""
    return [one for versions in project.prompts.values() for one in versions]


def labelled(project: Langfuse) -> dict[int, set[str]]:
    return {one["version"]: set(one["labels"]) for one in versions(project)}


def test_the_label_follows_what_serves(project: Langfuse) -> None:
    """A new text is a new version; a rollback moves the label back, and the same text is never a second version."""
    first = serves(project, "Be kind.")
    serves(project, "Be brief.")
    serves(project, "Be brief.")
    assert labelled(project) == {1: set(), 2: {"production", "latest"}}
    versions(project)[0]["labels"] = ["staging"]
    serves(project, "Be kind.")
    assert labelled(project) == {1: {"staging", "production"}, 2: {"latest"}}
    assert versions(project)[0]["commitMessage"] == first.release_id
    assert versions(project)[0]["config"] == {"release": first.release_id, "base_model": "tiny"}
    client = project.client(tracing_enabled=False)
    assert client.get_prompt("support-instructions", cache_ttl_seconds=0).prompt == "Be kind."


def test_a_release_without_instructions_changes_nothing(project: Langfuse) -> None:
    """Nothing is made, and what is there stays as it is."""
    serves(project, None)
    serves(project, "  ")
    assert project.prompts == {}
    assert project.log == []
    serves(project, "Be kind.")
    serves(project, None)
    assert labelled(project) == {1: {"production", "latest"}}


def test_an_answer_that_was_lost_makes_no_second_version(project: Langfuse) -> None:
    """The text is found there, and its label."""
    project.fail(1.0, ["close_after"], ["POST /api/public/v2/prompts"], times=1)
    with pytest.raises(DeliveryError) as failed:
        serves(project, "Be kind.")
    assert failed.value.arrived is None
    serves(project, "Be kind.")
    assert labelled(project) == {1: {"production", "latest"}}


def test_a_prompt_of_another_type_is_refused(project: Langfuse) -> None:
    """Somebody's chat prompt of that name stays, and the sentence says why."""
    client = project.client(tracing_enabled=False)
    client.create_prompt(name="support-instructions", type="chat", prompt=[], labels=["production"])
    with pytest.raises(DeliveryError, match="different prompt type") as failed:
        serves(project, "Be kind.")
    assert failed.value.forever


@pytest.mark.parametrize("agent", ["a/b?c#d%2F..", "größe | 1", "x" * 500, "\ud800"])
def test_any_agent_has_a_prompt(project: Langfuse, agent: str) -> None:
    """What cannot stand in an address is replaced; half a character in a text is stored, and found again."""
    serves(project, "Be \ud800kind.", agent)
    serves(project, "Be \ud800kind.", agent)
    serves(project, "Be brief.", agent)
    serves(project, "Be \ud800kind.", agent)
    assert labelled(project) == {1: {"production"}, 2: {"latest"}}
    assert versions(project)[0]["name"] == prompt_name(agent)
    assert len(prompt_name(agent)) < 255


# -- the whole circle --------------------------------------------------------------------------------------------------


def test_what_a_cycle_made_is_shown(project: Langfuse, wire: Wire, tmp_path: Path) -> None:
    """The dataset, the examination and the champion of a real cycle, as a mirror is told them."""
    shop = Shop(tmp_path / "l.db")
    with shop.loop as loop:
        shop.remember()
        shop.bad_day()
        report = loop.cycle()
        assert report.scorecard is not None
        assert report.dataset is not None
        store = loop.store
        made = store.datasets.get(report.dataset)
        send_dataset(wire, ToldDataset(made, tuple(loop.lessons.examples(made))))
        sides = [store.releases.get(one) for one in (report.scorecard.candidate, report.scorecard.champion)]
        cases = tuple(loop.exams.cases(made))
        results = {
            one.release_id: tuple(store.scorecards.results(one.release_id, report.scorecard.evaluator or "").values())
            for one in sides
        }
        send_examination(wire, ToldExamination(report.scorecard, sides[0], sides[1], cases, results), doubtful=False)
    taught = [
        item for item in project.dataset_items.values() if item["datasetName"] == f"learnloop-{made.version[:12]}"
    ]
    assert len(taught) == sum(sum(made.counts[origin].values()) for origin in made.counts if origin != "replay")
    assert all(item["sourceTraceId"] for item in taught)
    assert len(runs_of(project)) == sum(map(len, results.values())) > 0
    assert {s["value"] for s in project.scores.values() if s["name"] == "verdict"} == {"ship"}
