"""The agent: a graph that plans, searches in parallel branches, writes, and checks what it wrote.

Talk to it: python agent.py        Serve it: langgraph dev        Let it learn: python story.py
"""

from operator import add
from typing import Annotated, Any, TypedDict

from citations import cited, problem, same_topics
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Overwrite, Send
from library import search
from model import engine, trainer

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.evaluation.callables import from_callable
from langgraph_learnloop.nodes import flag_node

PLAN = "You answer from a library. Search it for everything that the question is about, each as a topic of its own."
WRITE = """Answer from the passages alone, in plain sentences. End each with the citation of its document, [like this].
Of what was not found say: No document is about it."""

topics = from_callable(same_topics, name="topics", version="1")  # what the gate decides by
loop = LearnLoop("learnloop.db", trainer=trainer(), evaluator=topics)
tools = loop.recordable([search], pure=["search"])  # it acts on nothing, so that replays may run it


class Branch(TypedDict):
    """What one branch is sent."""

    topic: str
    call: str


class Found(Branch):
    """What it comes back with."""

    passages: str


class Research(MessagesState):
    """The state of the graph."""

    found: Annotated[list[Found], add]


class Writing(Research):
    """The state of its subgraph that writes."""

    draft: str
    problem: str | None
    tries: int


def make_agent(model: BaseChatModel, **options: Any) -> Any:
    """Return the agent on any chat model; options such as a checkpointer go to `compile`."""
    planner = model.bind_tools(tools)

    def plan(state: Research) -> dict[str, Any]:
        return {"messages": [planner.invoke([SystemMessage(PLAN), *state["messages"]])], "found": Overwrite([])}

    builder = StateGraph(Research)
    builder.add_node("plan", plan)
    builder.add_node("look", look, input_schema=Branch)
    builder.add_node("write", make_writer(model))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", branches, ["look", END])
    builder.add_edge("look", "write")
    builder.add_edge("write", END)
    return builder.compile(**options)


def branches(state: Research) -> list[Send] | str:
    """Return one branch for each topic of the plan; a message that searches nothing, such as a greeting, is the end."""
    calls = getattr(state["messages"][-1], "tool_calls", [])
    sends = [Send("look", Branch(topic=topic, call=call["id"])) for call in calls for topic in call["args"]["topics"]]
    return sends or END


def look(state: Branch) -> dict[str, Any]:
    """Search for one topic."""
    passages = tools[0].invoke({"topics": [state["topic"]]})
    return {"found": [Found(**state, passages=passages)]}


def make_writer(model: BaseChatModel) -> Any:
    """Return the subgraph that writes and checks; what fails is flagged, and is written once more."""
    writer = model.bind_tools(tools)  # providers want to know the tools that a conversation used

    def write(state: Writing) -> dict[str, Any]:
        warning = f"\nDo not do this again: {state['problem']}" if state.get("problem") else ""
        draft = writer.invoke([SystemMessage(WRITE + warning), *state["messages"]])
        return {"draft": str(draft.text), "tries": state.get("tries", 0) + 1}

    builder = StateGraph(Writing, input_schema=Research, output_schema=MessagesState)
    builder.add_node("read", read)
    builder.add_node("write", write)
    builder.add_node("check", check)
    builder.add_node("flag", flag_node(loop, lambda state: state["problem"]))
    builder.add_node("answer", answer)
    builder.add_edge(START, "read")
    builder.add_edge("read", "write")
    builder.add_edge("write", "check")
    builder.add_edge("check", "flag")
    builder.add_conditional_edges("flag", again, ["write", "answer"])
    builder.add_edge("answer", END)
    return builder.compile()


def read(state: Research) -> dict[str, Any]:
    """Put what the branches found where the model reads it: one message for each call."""
    passages: dict[str, list[str]] = {}
    for one in state["found"]:
        passages.setdefault(one["call"], []).append(one["passages"])
    return {"messages": [ToolMessage("\n".join(texts), tool_call_id=call) for call, texts in passages.items()]}


def check(state: Writing) -> dict[str, Any]:
    """Look for a reason not to believe the draft."""
    question = next(message.text for message in reversed(state["messages"]) if message.type == "human")
    found = {name for one in state["found"] for name in cited(one["passages"])}
    return {"problem": problem(question, state["draft"], found)}


def again(state: Writing) -> str:
    """Go back to the writer once."""
    return "write" if state["problem"] and state["tries"] < 2 else "answer"


def answer(state: Writing) -> dict[str, Any]:
    """Say it, and what is wrong with it."""
    doubt = f"\nDo not rely on this. {state['problem']}" if state["problem"] else ""
    return {"messages": [AIMessage(state["draft"] + doubt)]}


model = loop.model(engine())
graph = loop.watch(make_agent(model))  # LangGraph's server brings a checkpointer of its own


def main() -> None:
    """Answer at the terminal until the input ends."""
    agent = loop.watch(make_agent(model, checkpointer=InMemorySaver()))
    config: Any = {"configurable": {"thread_id": "terminal"}}
    while True:
        try:
            asked = input("you: ")
        except (EOFError, KeyboardInterrupt):
            return
        print("agent:", agent.invoke({"messages": [("user", asked)]}, config)["messages"][-1].content)


if __name__ == "__main__":
    with loop:
        main()
