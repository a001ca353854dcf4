"""What is searched: a dozen field notes on rivers, and how they are cited.

To have your own, put files of Markdown into `documents`: the heading is the title, the file's name is the citation.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from langchain_core.tools import tool
from sklearn.feature_extraction.text import TfidfVectorizer

MOST = 2
"""Documents that are read for one topic, the best first; what is less than half as like it as the best is left out."""


@dataclass(frozen=True)
class Document:
    """One note."""

    name: str
    title: str
    text: str

    def cited(self) -> str:
        """Return the text with the document's citation at every sentence."""
        return re.sub(r"([.!?])(?=\s|$)", rf" [{self.name}]\1", self.text)


def read(folder: Path) -> dict[str, Document]:
    """Return the documents of a folder by name."""
    found = {}
    for file in sorted(folder.glob("*.md")):
        title, _, text = file.read_text(encoding="utf-8").partition("\n")
        found[file.stem] = Document(file.stem, title.strip("# "), " ".join(text.split()))
    return found


documents = read(Path(__file__).parent / "documents")
_words = TfidfVectorizer(stop_words="english")
_weights = _words.fit_transform(f"{one.title}: {one.text}" for one in documents.values())


def best(topic: str) -> list[Document]:
    """Return what is most like a topic, by the weight of the words in common (tf-idf)."""
    likeness = (_weights @ _words.transform([topic]).T).toarray().ravel()
    order = sorted(zip(likeness, documents.values(), strict=True), key=lambda pair: -pair[0])
    return [one for score, one in order[:MOST] if score > order[0][0] / 2]


@tool
def search(topics: list[str]) -> str:
    """Search the documents, once for each topic; every sentence is given with its citation."""
    found = {topic: [one.cited() for one in best(topic)] for topic in topics}
    return "\n".join("\n".join(texts) or f"No document is about {topic}." for topic, texts in found.items())
