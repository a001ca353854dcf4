"""How the disk is kept from filling up: adapters that nobody needs any more go, the least needed and oldest first.

`LearnLoop` holds one `Tidying`; its verb `tidy` ends here. What may not go is said of each folder, never guessed: what
cannot be told stays. Only folders directly in the loop's own jobs folder are ever removed, and no link is followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from langgraph_learnloop.errors import ConfigError, NotFoundError
from langgraph_learnloop.files import beside_what, folder_size, remove_folder
from langgraph_learnloop.jobs import RESULT, idle, is_under_way, mark_removed, owner_of, under_way, why_removed
from langgraph_learnloop.records import Job, Release, Server, TrainingResult, content_hash
from langgraph_learnloop.store.opened import Store

GB = 1_000_000_000
KEPT_CHAMPIONS = 3
"""Champions, the one that serves among them, whose adapters always stay."""
_JOB = re.compile(r"([0-9a-f]{16})(\.checkpoints)?")
_LEFT_BEHIND, _UNNAMED, _STOPPED, _FORMER = range(4)
_RANKS = {
    _LEFT_BEHIND: "It was left behind by something that was cut off.",
    _UNNAMED: "No release names it.",
    _STOPPED: "It is a candidate that was stopped.",
    _FORMER: "It is a former champion.",
}

Decide = Callable[[str, str, str, str], None]
"""Logs action, subject, because and actor."""


class Tidied(NamedTuple):
    """A folder that was removed, or would be."""

    folder: str
    """Where it lay."""
    releases: tuple[str, ...]
    """The releases whose adapter it was; they stay in the store."""
    size: int
    """Its bytes."""
    because: str
    """Why it could go, in a sentence."""


class Held(NamedTuple):
    """A folder among the jobs, and what speaks against its removal."""

    place: Path
    job_id: str
    releases: tuple[Release, ...]
    """Those whose adapter it is."""
    size: int
    """Its bytes."""
    at: float
    """When it was made, in seconds since the epoch."""
    rank: int
    """The lower, the sooner it goes."""
    kept: str | None
    """Why it must stay; None if it need not."""


class Facts(NamedTuple):
    """What the store knows of releases, as far as it matters for what may go."""

    champions: tuple[str, ...]
    """All that ever served, the one that serves first."""
    previous: str | None
    """Where a rollback goes."""
    sides: frozenset[str]
    """Both sides of the rollout under way."""
    pinned: frozenset[str]
    """Releases of threads that are not long over."""
    loaded: frozenset[str]
    """Releases in the memory of processes that serve."""
    taken_back: frozenset[str]
    """Candidates whose rollout was rolled back."""

    def kept(self, release_id: str) -> str | None:
        """Return why a release's adapter must stay; None if nothing here speaks for it."""
        reasons = {
            "It serves.": self.champions[:1],
            "A rollback goes to it.": (self.previous,),
            "A rollout is under way.": self.sides,
            f"It is one of the last {KEPT_CHAMPIONS} champions.": self.champions[:KEPT_CHAMPIONS],
            "Threads that are not over began with it.": self.pinned,
            "A process that serves has it in its memory.": self.loaded,
        }
        return next((reason for reason, those in reasons.items() if release_id in those), None)


class Tidying:
    """Keep the adapters of one store within bounds."""

    def __init__(
        self, store: Store, servers: Callable[[], Sequence[Server]], now: Callable[[], datetime], decide: Decide
    ) -> None:
        """Work on an open store."""
        self._store = store
        self._folder = store.folder / "jobs"
        self._servers = servers
        self._now = now
        self._decide = decide

    def under_way(self, job: Job) -> AbstractContextManager[None]:
        """Keep what a job writes from being removed for as long as a block lasts."""
        return under_way(job.output, self._owner)

    def tidy(self, gb: float | None, days: float, dry_run: bool, by: str) -> tuple[Tidied, ...]:
        """Remove folders until the rest takes at most `gb` (10^9 bytes), or all that may go is gone; return those."""
        if self._folder.is_symlink():
            raise ConfigError(
                f"The jobs folder {str(self._folder)!r} is a link, and nothing is removed behind links: have "
                "`folder` in the settings lead to where it does."
            )
        most, held = _bytes(gb), self.held(days)
        total, done = sum(one.size for one in held), list[Tidied]()
        for one in sorted((one for one in held if one.kept is None), key=lambda one: (one.rank, one.at)):
            if total <= most:
                break
            because = f"{_RANKS[one.rank]} {total / GB:.3g} GB were more than the {most / GB:.3g} GB that are allowed."
            if dry_run or self._remove(one, because, by):
                release_ids = tuple(release.release_id for release in one.releases)
                done.append(Tidied(str(one.place), release_ids, one.size, because))
                total -= one.size
        return tuple(done)

    def held(self, days: float = 30.0) -> tuple[Held, ...]:
        """Return what lies among the jobs, and what must stay: all that a thread of the last `days` may need, too."""
        facts, releases = self._facts(days), self._store.releases.all()
        named = [(release, _names(release)) for release in releases if release.adapter is not None]
        found = []
        for place in _folders(self._folder):
            its_own = tuple(release for release, names in named if place.name in names)
            if (job_id := _job_of(place.name)) is not None or its_own:
                found.append(self._held(place, job_id or place.name, its_own, facts))
        return tuple(found)

    def states(self, releases: Sequence[Release]) -> list[str]:
        """Return where releases stand, in two or three words each."""
        facts = self._facts(days=0)
        return [self._state(release, facts) for release in releases]

    def _state(self, release: Release, facts: Facts) -> str:
        release_id = release.release_id
        card = self._store.scorecards.of(release_id)
        states = {
            "serves": release_id in facts.champions[:1],
            "rolling out": release_id in facts.sides,
            "way back": release_id == facts.previous,
            "served before": release_id in facts.champions,
            "taken back": release_id in facts.taken_back,
            "not examined": card is None,
            "stopped": card is not None and not card.passed,
        }
        return next((state for state, holds in states.items() if holds), "passed")

    @cached_property
    def _owner(self) -> str:
        """Return what tells this store from another one that keeps its files in the same folder."""
        return content_hash(str(self._store.path.resolve()) if self._store.path else self._store.url)

    def _facts(self, days: float) -> Facts:
        store = self._store
        history = [entry.release_id for entry in store.releases.history()]
        rollouts, previous = store.rollouts.all(), None
        with suppress(NotFoundError):
            previous = store.releases.previous()
        return Facts(
            champions=tuple(dict.fromkeys(reversed(history))),
            previous=previous,
            sides=frozenset(side for one in rollouts if one.open for side in (one.candidate, one.champion)),
            pinned=store.releases.pinned_since(self._now() - timedelta(days=days)),
            loaded=frozenset(loaded for server in self._servers() for loaded in server.loaded),
            taken_back=frozenset(one.candidate for one in rollouts if one.state == "rolled_back"),
        )

    def _held(self, place: Path, job_id: str, releases: tuple[Release, ...], facts: Facts) -> Held:
        made = max((release.made_at.timestamp() for release in releases), default=place.lstat().st_mtime)
        if releases:
            kept, rank = self._of_releases(releases, facts)
        else:
            kept, rank = self._unnamed(place, job_id), _UNNAMED if beside_what(place.name) is None else _LEFT_BEHIND
        if is_under_way(self._folder / job_id):
            kept = "A job is at work on it."
        return Held(place, job_id, releases, folder_size(place), made, rank, kept)

    def _of_releases(self, releases: Sequence[Release], facts: Facts) -> tuple[str | None, int]:
        """Return why an adapter must stay, for one of its releases, and when it goes, for the most needed of them."""
        ranks = [_STOPPED]
        for release in releases:
            if (kept := facts.kept(release.release_id)) is not None:
                return kept, _FORMER
            state = self._state(release, facts)
            if state in ("not examined", "passed"):
                return "It waits to be examined, or to be put in service.", _FORMER
            ranks.append(_FORMER if state == "served before" else _STOPPED)
        return None, max(ranks)

    def _unnamed(self, place: Path, job_id: str) -> str | None:
        """Return why a folder must stay that is no release's adapter."""
        output = self._folder / job_id
        if (owner := owner_of(output)) not in (None, self._owner):
            return f"It is of another store ({owner})."
        began = self._store.cycles.open_since()
        if began is not None and datetime.fromtimestamp(_changed(place), UTC) >= began:
            return "A cycle that is open may go on with it."
        if _is_a_providers(place):
            return "It is the receipt of a model that a provider keeps."
        return None

    def _remove(self, one: Held, because: str, by: str) -> bool:
        """Remove a folder unless a job is at work on it; return whether it is gone."""
        with idle(self._folder / one.job_id) as free:
            if not free or one.place.is_symlink() or not one.place.is_dir():
                return False
            for subject in [release.release_id for release in one.releases] or [one.job_id]:
                self._decide("tidy", subject, because, by)
            if one.releases:
                mark_removed(one.place, f"{by} removed it on {self._now():%Y-%m-%d} to make room. {because}")
                champion = self._store.releases.champion()
                for release in one.releases:  # threads of long ago that come back get the champion
                    self._store.releases.unpin(release.release_id, champion)
            with suppress(OSError):
                remove_folder(one.place)
        return not one.place.exists()


def size_of(release: Release, held: Sequence[Held]) -> str:
    """Return what a release's adapter takes, in words."""
    if release.adapter is None:
        return "-"
    size = next((one.size for one in held if release in one.releases), None)
    if size is None:
        return "removed" if why_removed(release) is not None else "elsewhere"
    return f"{size / 1_000_000:,.1f} MB"


def _bytes(gb: float | None) -> float:
    if gb is None:
        raise ConfigError("Say how much may stay: loop.tidy(gb=20), --gb 20, or adapters_gb in the settings.")
    if not 0 <= gb < float("inf"):
        raise ConfigError(f"A disk budget must be a number of gigabytes, at least 0, not {gb!r}.")
    return gb * GB


def _names(release: Release) -> frozenset[str]:
    """Return every name on the way to an adapter.

    By names, not by place: a store may be opened from another folder than the one that its paths begin in.
    """
    path = Path(str(release.adapter))
    with suppress(OSError, ValueError, RuntimeError):
        return frozenset((*path.parts, *path.resolve().parts))
    return frozenset(path.parts)


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, none of them a link; none where it is not there."""
    inside = folder.iterdir() if folder.exists() else ()
    return sorted(path for path in inside if path.is_dir() and not path.is_symlink())


def _job_of(name: str) -> str | None:
    """Return the job that a folder is of; None where it is no job's."""
    found = _JOB.fullmatch(beside_what(name) or name)
    return found[1] if found is not None else None


def _changed(place: Path) -> float:
    """Return when a folder, or something directly in it, was changed last."""
    times = [place.lstat().st_mtime]
    with suppress(OSError):
        times += [entry.lstat().st_mtime for entry in place.iterdir()]
    return max(times)


def _is_a_providers(place: Path) -> bool:
    try:
        return TrainingResult.model_validate_json((place / RESULT).read_bytes()).adapter is None
    except (OSError, ValidationError):
        return False
