"""The course of `distributary search` as a stage: its plan, and its work."""

from typing import TYPE_CHECKING, Any

from jobs.finetune import Config
from jobs.shell.display import console
from jobs.shell.plan import Plan
from jobs.shell.redaction import redact
from jobs.shell.search import (
    Search,
    describe_candidates,
    display_scores,
    find_search_folder,
    format_overrides,
    format_yaml,
)
from jobs.shell.settings import Settings
from jobs.shell.stage import Work

if TYPE_CHECKING:
    from pipelines.finetune.search.score import Candidate, Score
    from pipelines.finetune.search.trial import Trial


def plan_search(settings: Settings, retry_failed: bool, config: Config) -> Plan[tuple[Search, bool]]:
    """Up to date if the search has its result, and its run is finished."""
    from pipelines.registry.lookup import Lookup
    from pipelines.registry.runs.search import read_search

    search = Search.of(settings)
    found = read_search(search.folder)
    lookup = Lookup(config.tracking.uri, config.tracking.artifacts)
    finished = found and lookup.find_finished_run(config.tracking.experiment, search.fingerprint)
    again = explain_repetition(found, retry_failed) if found and finished else None
    done = bool(found and finished and not again)
    if done:
        why = f"run {finished} searched the same sequences and settings"
    else:
        why = again or "no finished search of these sequences and settings yet"
    return Plan(
        fingerprint=search.fingerprint,
        up_to_date=done,
        why=why,
        inputs=(search, retry_failed),
        facts=_describe(found) if done and found else {},
        forecast=lambda: describe_candidates(search),
    )


def explain_repetition(found: dict[str, Any], retry_failed: bool) -> str | None:
    """Why a search that has its result runs again; None if it need not."""
    if retry_failed and any(trial["error"] for trial in found["trials"]):
        return "trials that failed run again"
    if any(trial["lost"] for trial in found["trials"]):
        return "trials whose process was lost run again"
    return None


def read_overrides(config: Config, fingerprint: str) -> list[str]:
    """The best settings of a finished search, as KEY=VALUE."""
    from pipelines.registry.runs.search import read_search

    found = read_search(find_search_folder(config, fingerprint))
    assert found is not None, "a search that has ended has a result"
    return list(found["overrides"])


def write_search(config: Config, work: "Work[tuple[Search, bool]]") -> dict[str, str]:
    from pipelines.finetune.search.candidates import PROPOSERS, describe_lack
    from pipelines.finetune.search.run import count_parallel, launch_on, run_rounds, run_trials
    from pipelines.finetune.search.score import choose_best
    from pipelines.finetune.search.trial import forget_failure, list_different, read_score
    from pipelines.pin import Pin
    from pipelines.registry.runs.search import read_search, record_search
    from pipelines.registry.runs.training import Description
    from pipelines.registry.store import connect

    (search, retry_failed), rules, progress = work.inputs, config.search, work.progress
    connect(config.tracking.uri, config.tracking.artifacts)
    parallel = count_parallel(work.spark, rules.max_parallel, config.gpus_per_rank)
    search.write_folds()
    inputs = [search.sequences, Pin(**search.sequences.facts["documents"])]
    params = redact({**rules.identity(), "space": {key: str(each) for key, each in search.space.items()}})
    about = Description(params, config.effective, redact)
    with record_search(
        work.fingerprint,
        search.folder,
        config.searches,
        config.tracking.experiment,
        inputs,
        about,
        progress.update,
    ) as record:

        def run(candidates: "list[Candidate]") -> "list[Score]":
            made = [(each, search.make_trials(each)) for each in candidates]
            trials = [trial for _, mine in made for trial in mine]
            for trial in trials if retry_failed else ():
                forget_failure(trial)
            lack = None if candidates[0].rung else describe_lack(rules, len(candidates))
            if lack is not None:
                progress.print(lack)
            progress.phase(f"{len(list_different(trials))} trials, {parallel} at once")

            def show(trial: "Trial", error: str | None) -> None:
                # With the first value it shows whether the task has the metric, not after hours.
                lost = {} if error is None else {trial.id: error}
                score = read_score(trial.candidate, [trial], rules.metric, lost)
                progress.print(f"{trial.name}: {describe_end(score)}")

            lost = run_trials(
                trials, launch_on(work.spark), record.trial, parallel=parallel, hide=redact, ended=show
            )
            return [read_score(candidate, mine, rules.metric, lost) for candidate, mine in made]

        scores = run_rounds(PROPOSERS[rules.method](rules, search.space), run)
        best = choose_best(scores)
        settings = best.candidate.settings
        record.conclude(scores, best, format_overrides(settings), format_yaml(settings))
    display_scores(scores, best)
    found = read_search(search.folder)
    assert found is not None, "it was just written"
    console.print(f"best settings: {search.folder}/best.yaml", markup=False)
    return _describe(found)


def describe_end(score: "Score") -> str:
    """The value of a trial, or the first line of its error."""
    if score.error:
        return f"failed: {redact(score.error.partition(chr(10))[0])}"
    return f"{score.metric} {score.value:.4f}"


def _describe(found: dict[str, Any]) -> dict[str, str]:
    numbers = {trial["trial"] for trial in found["trials"]}
    failed = {trial["trial"] for trial in found["trials"] if trial["error"]}
    return {
        f"best {found['metric']}": f"{found['value']:.4f} (trial {found['best_trial']})",
        "trials": f"{len(numbers)}" + (f", {len(failed)} failed" if failed else ""),
        "settings": " ".join(found["overrides"]),
    }
