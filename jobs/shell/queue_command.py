"""The options and the help of `distributary queue`; what does the work is loaded when it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.shell import settings as configuration
from jobs.shell.command import Env, File, Overrides, Recipe, report_errors
from jobs.shell.exits import HELP, Exit
from jobs.shell.record import Record

if TYPE_CHECKING:
    from jobs.shell.queue_settings import QueueConfig
    from jobs.shell.settings import Settings

ABOUT = """Let many trainings share the same machines.

A training that is added waits until the scheduler starts it. The scheduler runs as long as `queue run` does;
the queue is a table, so it may be killed and started again: nothing starts twice, and trainings that ran go
on. docs/queue.md says what each policy does.

\b
Examples:
  distributary queue add --recipe customer_service finetune.seed=1
  distributary queue add --recipe customer_service finetune.seed=2 --priority 1 --deadline +6h
  distributary queue run --until-empty
  distributary queue list
  distributary queue simulate --load 0.9 --count 200
"""
Picture = Annotated[
    str | None,
    typer.Option(
        "--picture",
        metavar="FILE",
        help="Draw who ran where and when: a PNG file, or SVG or PDF by its name.",
    ),
]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", metavar="NAME", help="Instead of queue.policy.")
]


@contextmanager
def open_queue(
    command: str, overrides: Overrides, recipe: Recipe, env: Env, file: File, more: tuple[str, ...] = ()
) -> "Iterator[tuple[Settings, QueueConfig]]":
    """The configuration of a command, with its errors as one message."""
    record = Record(command, [])
    with report_errors(record):
        settings = configuration.load(
            recipe=recipe, env=env, file=file, overrides=[*(overrides or ()), *more]
        )
        from jobs.shell.preflight import probe_services
        from jobs.shell.queue_settings import QueueConfig

        config = settings.section("queue", QueueConfig)
        probe_services(settings, (), config.storage)
        record.configure(settings)
        yield settings, config


def add_queue(program: typer.Typer) -> None:
    queue = typer.Typer(help=ABOUT, no_args_is_help=True, rich_markup_mode=None)
    program.add_typer(queue, name="queue", short_help="Let many trainings share the same machines.")
    _add_add(queue)
    _add_list(queue)
    _add_cancel(queue)
    _add_run(queue)
    _add_simulate(queue)


def _add_add(queue: typer.Typer) -> None:
    @queue.command("add")
    def add(
        overrides: Overrides = None,
        priority: Annotated[int, typer.Option(help="Higher goes first, by the policy resource_aware.")] = 0,
        deadline: Annotated[
            str | None,
            typer.Option(
                metavar="TIME",
                help="When it should have ended: 2026-01-31T18:00, or +90m, +6h, +2d from now.",
            ),
        ] = None,
        ranks: Annotated[int | None, typer.Option(min=1, help="Short for finetune.num_ranks=N.")] = None,
        minutes: Annotated[
            float | None,
            typer.Option(min=0.01, help="How long it will run. Default: as others of its recipe did."),
        ] = None,
        memory_gb: Annotated[
            float | None,
            typer.Option(min=0.01, help="Memory of all its processes. Default: estimated, in seconds."),
        ] = None,
        gpus: Annotated[
            float | None,
            typer.Option(min=0, help="GPUs of all its ranks. Default: num_ranks x gpus_per_rank."),
        ] = None,
        group: Annotated[
            str | None, typer.Option(metavar="NAME", help="The group of machines. Default: any one.")
        ] = None,
        recipe: Recipe = None,
        env: Env = None,
        file: File = None,
    ) -> None:
        """Add a training; print its id.

        The configuration is checked now. The data stages must have run: a training reads the sequences that
        are there when it starts. Passwords belong into the environment: ${oc.env:NAME}.
        """
        more = () if ranks is None else (f"finetune.num_ranks={ranks}",)
        with open_queue("queue add", overrides, recipe, env, file, more) as (settings, config):
            from jobs.shell.queue_add import Wish, add_training

            wish = Wish(
                recipe=recipe,
                env=env,
                config=None if file is None else str(file.absolute()),
                overrides=[*(overrides or ()), *more],
                priority=priority,
                deadline=deadline,
                minutes=minutes,
                memory_gb=memory_gb,
                gpus=gpus,
                group=group,
            )
            add_training(settings, config, wish)


def _add_list(queue: typer.Typer) -> None:
    @queue.command("list")
    def show(
        overrides: Overrides = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array, for machines.")] = False,
        picture: Picture = None,
        env: Env = None,
        file: File = None,
    ) -> None:
        """List the trainings of the queue, with what happened."""
        with open_queue("queue list", overrides, None, env, file) as (_, config):
            from jobs.shell.queue_run import show_queue

            show_queue(config, as_json=as_json, picture=picture)


def _add_cancel(queue: typer.Typer) -> None:
    @queue.command("cancel")
    def cancel(
        training: Annotated[int, typer.Argument(min=1, metavar="ID", help="As `queue list` shows it.")],
        overrides: Overrides = None,
        env: Env = None,
        file: File = None,
    ) -> None:
        """Cancel a training. One that runs is stopped (SIGTERM) by the scheduler; its checkpoints stay."""
        with open_queue("queue cancel", overrides, None, env, file) as (_, config):
            from jobs.shell.queue_add import cancel_training

            cancel_training(config, training)


def _add_run(queue: typer.Typer) -> None:
    @queue.command("run")
    def run(
        overrides: Overrides = None,
        policy: PolicyOption = None,
        until_empty: Annotated[
            bool, typer.Option("--until-empty", help="End when nothing waits or runs any more.")
        ] = False,
        picture: Picture = None,
        env: Env = None,
        file: File = None,
    ) -> None:
        """Start the trainings of the queue, as a policy says.

        Ctrl-C ends the scheduler, not the trainings: the next `queue run` watches them again. A training that
        was killed goes on from its newest checkpoint. One scheduler at a time; a second one is refused. With
        --until-empty, status 1 if a training failed.
        """
        more = () if policy is None else (f"queue.policy={policy}",)
        with open_queue("queue run", overrides, None, env, file, more) as (_, config):
            from jobs.shell.queue_run import run_queue

            is_well = run_queue(config, until_empty=until_empty, picture=picture)
        if not is_well:
            raise typer.Exit(Exit.UNEXPECTED)

    run.__doc__ = f"{cleandoc(run.__doc__ or '')}\n\n{HELP}"


def _add_simulate(queue: typer.Typer) -> None:
    @queue.command("simulate")
    def simulate(
        overrides: Overrides = None,
        trainings: Annotated[
            Path | None,
            typer.Option(exists=True, dir_okay=False, metavar="FILE", help="JSON lines, see docs/queue.md."),
        ] = None,
        recorded: Annotated[
            bool, typer.Option("--recorded", help="The trainings of this queue that are done.")
        ] = False,
        load: Annotated[
            float, typer.Option(min=0.01, help="Else mixed ones at random: their share of all machines.")
        ] = 0.9,
        count: Annotated[int, typer.Option(min=1, help="How many of these.")] = 200,
        seed: Annotated[int, typer.Option(help="Of these.")] = 0,
        policy: PolicyOption = None,
        start_seconds: Annotated[
            float, typer.Option(min=0, help="That every start costs before the first step.")
        ] = 20.0,
        as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object, for machines.")] = False,
        picture: Picture = None,
        env: Env = None,
        file: File = None,
    ) -> None:
        """Compare the policies; train nothing.

        The simulation runs on queue.resources and asks the same code as the scheduler. It prints makespan,
        waiting times and use of slots; --picture draws them. Needs the extra `simulate`.
        """
        with open_queue("queue simulate", overrides, None, env, file) as (_, config):
            from jobs.shell.queue_simulate import Question, show_simulation

            question = Question(
                trainings=trainings,
                recorded=recorded,
                load=load,
                count=count,
                seed=seed,
                policy=policy,
                start_seconds=start_seconds,
            )
            show_simulation(config, question, as_json=as_json, picture=picture)
