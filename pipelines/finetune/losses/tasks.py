"""The tasks in which a sequence has a loss of its own. Plain values: jobs plan with them."""

TASKS = (
    "chat",
    "classification",
    "language_modelling",
    "masked_language_modelling",
    "multi_label_classification",
    "preference",
    "prompt_response",
)
"""Those whose loss is a sum over sequences, each on its own (`tasks.task.LossPerRow`)."""


def require_task(task: str, *, has_teacher: bool) -> None:
    """Raise ValueError if the loss of a sequence is not defined, or if a teacher is a part of it."""
    if has_teacher:
        raise ValueError(
            "finetune.sequence_losses is true, and finetune.teacher.base is set: what the teacher adds to "
            "the loss is not known of each sequence; set finetune.sequence_losses=false, or train without a "
            "teacher"
        )
    if task not in TASKS:
        raise ValueError(
            f"finetune.sequence_losses is true, but in task {task} the loss of a sequence is not its own: it "
            f"depends on the other sequences of the step; set it to false (it is for {', '.join(TASKS)})"
        )
