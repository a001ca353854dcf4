"""Keep the turns of the loop, so that a turn that was killed is taken up again."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select, update

from langgraph_learnloop.errors import NotFoundError
from langgraph_learnloop.records import CycleReport
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Drawer


class Cycles(Drawer):
    """Store when turns began and how they ended; a turn that waits for review has not ended."""

    def start(self, cycle_id: str, now: datetime) -> None:
        """Note that a turn began; noting it again changes nothing."""
        self._insert_new(tables.cycles, {"cycle_id": cycle_id, "started_at": now.timestamp(), "finished": 0})

    def open(self) -> str | None:
        """Return the id of the latest turn that has not ended, if there is one."""
        query = select(tables.cycles.c.cycle_id).where(tables.cycles.c.finished == 0)
        with self._database.reading() as connection:
            return connection.execute(query.order_by(tables.cycles.c.seq.desc()).limit(1)).scalar()

    def open_since(self) -> datetime | None:
        """Return when the oldest turn that has not ended began, UTC, if there is one."""
        query = select(func.min(tables.cycles.c.started_at)).where(tables.cycles.c.finished == 0)
        with self._database.reading() as connection:
            began = connection.execute(query).scalar()
        return None if began is None else datetime.fromtimestamp(began, UTC)

    def finish(self, report: CycleReport) -> None:
        """Store how a turn ended; one that is "waiting" stays open. Raise NotFoundError if it never began."""
        ended = (
            update(tables.cycles)
            .where(tables.cycles.c.cycle_id == report.cycle_id)
            .values(finished=int(report.outcome != "waiting"), body=report.model_dump_json())
        )
        with self._database.writing() as connection:
            if connection.execute(ended).rowcount == 0:
                raise NotFoundError(
                    f"The cycle {report.cycle_id!r} was never started in {self._database.where!r}; "
                    "start it before it is finished."
                )

    def report(self, cycle_id: str) -> CycleReport | None:
        """Return what was last reported of a turn, or None."""
        mine = (tables.cycles.c.cycle_id == cycle_id) & tables.cycles.c.body.is_not(None)
        return self._record(CycleReport, select(tables.cycles.c.body).where(mine))

    def all(self) -> tuple[CycleReport, ...]:
        """Return all reports, oldest turn first."""
        reported = select(tables.cycles.c.body).where(tables.cycles.c.body.is_not(None))
        return self._records(CycleReport, reported.order_by(tables.cycles.c.seq))
