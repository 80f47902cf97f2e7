"""The options and the help of `distributary trace`; what answers it is loaded when it runs."""

from typing import Annotated

import typer

from jobs.finetune import Config
from jobs.shell import settings as configuration
from jobs.shell.command import Env, File, Overrides, Recipe, report_errors
from jobs.shell.preflight import probe_services
from jobs.shell.record import Record

DEFAULT_DEVIATIONS = 6.0


def add_trace(program: typer.Typer) -> None:
    @program.command("trace")
    def trace(
        overrides: Overrides = None,
        step: Annotated[
            int | None, typer.Option(metavar="S", help="List what this step saw; steps count from 1.")
        ] = None,
        rank: Annotated[
            int | None, typer.Option(metavar="R", help="Of --step: only what this rank saw, from 0.")
        ] = None,
        document: Annotated[
            str | None, typer.Option(metavar="ID", help="List sequences and steps that have this doc_id.")
        ] = None,
        spike: Annotated[
            bool, typer.Option("--spike", help="List the steps whose loss jumped, and what they saw.")
        ] = False,
        deviations: Annotated[
            float | None,
            typer.Option(
                metavar="K",
                help="Of --spike: how far above the running median, in deviations. "
                f"Default: {DEFAULT_DEVIATIONS:g}.",
            ),
        ] = None,
        run: Annotated[
            str | None,
            typer.Option(
                metavar="RUN",
                help="Id of a run, or models:/NAME/VERSION. Default: the last training of this "
                "configuration that finished.",
            ),
        ] = None,
        num_ranks: Annotated[
            int | None,
            typer.Option(
                min=1,
                metavar="N",
                help="Ranks, if the run was continued with more or fewer. Recorded losses know theirs.",
            ),
        ] = None,
        text: Annotated[
            bool, typer.Option("--text", help="Show the texts too. Reads the ids of all documents.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")] = False,
        recipe: Recipe = None,
        env: Env = None,
        file: File = None,
    ) -> None:
        """List the documents of a step or spike, or steps of a document.

        A step is answered with the documents that it trained on, by sequence, rank, tokens and characters;
        a document, with the steps and epochs that saw it, or with the rule that dropped it. Steps and epochs
        count from 1, as in the charts of the run; ranks from 0.

        A spike is a loss more than K robust deviations of the noise above the running median. With
        finetune.sequence_losses=true the sequences are listed that made it; otherwise all of the step.

        \b
        Examples:
          distributary trace --recipe customer_service --step 120
          distributary trace --recipe customer_service --step 120 --rank 1 --text
          distributary trace --document DOC_ID --run models:/customer_service/3
          distributary trace --recipe customer_service --spike --text
        """
        if (step is not None) + (document is not None) + spike != 1:
            raise typer.BadParameter("give one of --step, --document and --spike")
        if rank is not None and step is None:
            raise typer.BadParameter("--rank belongs to --step")
        if deviations is not None and not spike:
            raise typer.BadParameter("--deviations belongs to --spike; give --spike, or leave it out")
        if spike and deviations is None:
            deviations = DEFAULT_DEVIATIONS
        record = Record("trace", [])
        with report_errors(record):
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            config = settings.section("finetune", Config)
            probe_services(settings, ["finetune"], config.storage)
            record.configure(settings)
            from jobs.shell.trace import Question, show_trace

            question = Question(
                run=run, step=step, rank=rank, document=document, num_ranks=num_ranks, deviations=deviations
            )
            show_trace(config, question, text=text, as_json=as_json)
