"""The evaluations of a run: which items are asked when, and what an earlier life of the trainer already knows."""

from __future__ import annotations

from collections.abc import Sequence

from xopd.config import Config
from xopd.data import Item
from xopd.errors import UserError
from xopd.evals.parts import first_of_each_kind
from xopd.evals.verdicts import Evaluation
from xopd.report.records import Score
from xopd.scoring import TeacherClient
from xopd_trainer.evaluation import Evaluator
from xopd_trainer.probe import Prober
from xopd_trainer.state.records import Records
from xopd_trainer.state.run_files import RunFiles
from xopd_trainer.state.status import Status


class HeldOut:
    """Evaluates on the dev and eval splits."""

    def __init__(
        self,
        config: Config,
        items: Sequence[Item],
        evaluator: Evaluator,
        prober: Prober,
        teacher: TeacherClient,
        files: RunFiles,
        status: Status,
        records: Records,
    ) -> None:
        """Evaluate on what of `items` is held out."""
        self.config = config
        self.evaluator = evaluator
        self.prober = prober
        self.teacher = teacher
        self.files = files
        self.status = status
        self.records = records
        self.test = [item for item in items if item.split == config.data.eval_split]
        self.tasks = [item for item in self.test if item.kind == "task"]
        """Those that the teacher can be asked, too."""
        dev = [item for item in items if item.split == config.data.dev_split]
        self.dev = first_of_each_kind(dev, config.evals.dev_items)
        self.probed = [item for item in self.dev if item.kind == "task"][: config.evals.probe_items]

    async def score_teacher(self) -> Evaluation:
        """The text-only teacher's own score, which the student's is held against."""
        known = self.files.read_evaluation("teacher", self._asked(self.tasks, None))
        if known is None:
            self.status.enter("teacher_eval", "the teacher answers the held-out text", len(self.tasks))
            known = await self.evaluator.teacher(self.teacher, self.tasks, self.status.advance)
            self.files.write_evaluation("teacher", known)
        self.status.teacher_text = Score.model_validate(known.as_json()["text"])
        return known

    async def score_student(self, label: str, step: int, newest: int) -> Evaluation:
        """Policy version `step` on the eval split, or what an earlier life found.

        Args:
            label: `base` or `final`.
            step: the policy version that is meant.
            newest: the version that the pods hold.

        Raises:
            UserError: if the base is not known any more, and the policy has moved on.
        """
        known = self.files.read_evaluation(label, self._asked(self.test, step))
        if known is not None:
            self.records.evaluation(step, "test", known, known=True)
            return known
        if newest > step:
            # Asked now, it would be the trained policy's score under the base's name.
            raise UserError(
                f"{self.files.folder}: the base was not evaluated on these items, and the policy has taken"
                f" {newest} steps since; bring evals/{label}.json back, or begin the run anew."
            )
        self.status.enter(f"{label}_eval", "held-out speech, text and retention", len(self.test))
        found = await self.evaluator.student(label, step, newest, self.test, self.status.advance)
        self.files.write_evaluation(label, found)
        self.records.evaluation(step, "test", found)
        return found

    async def score_dev(self, step: int) -> None:
        """Policy version `step` on the dev split, and the signals of some of its items."""
        if not self.dev:
            return
        self.status.enter("dev_eval", "", len(self.dev))
        found = await self.evaluator.student("dev", step, step, self.dev, self.status.advance)
        self.records.evaluation(step, "dev", found)
        if self.probed:
            self.status.enter("probing", "signals on dev items")
            self.records.probe(step, await self.prober.measure(step, self.probed))

    def _asked(self, items: Sequence[Item], version: int | None) -> dict[str, str]:
        return {item.id: self.evaluator.asked(item, version) for item in items}
