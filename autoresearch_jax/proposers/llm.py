"""A Gemini model proposes: asked anew for each experiment, and told what is wrong until its answer can be measured.

Imports google-genai, which takes a while: only import this module where a model is asked.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.genai import types

from autoresearch_jax.edits import EditError
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.answers import answer_schema, category_names, read_answers
from autoresearch_jax.proposers.base import (
    MAX_WHY_CHARACTERS,
    Brief,
    Examine,
    LimitReached,
    Objection,
    Proposal,
    ProposalFailed,
    ServiceDown,
)
from autoresearch_jax.proposers.briefing import DEFAULT_TOKENS, rule_line, write_brief
from autoresearch_jax.proposers.llm_budget import GeminiOptions, Spending
from autoresearch_jax.proposers.llm_client import Closed, GeminiClient, NotLetIn, milliseconds
from autoresearch_jax.proposers.several import KeepOthers
from autoresearch_jax.sanitize import clean_line, clean_secret_line, quoted, redact

CHECK_SECONDS = 30.0
MAX_ECHO_CHARACTERS = 100_000  # of an answer that is shown to the model again: three times the default one
_BLOCKED = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR")
_NOTHING_SENT = Objection("the service sent no candidate, so there is no answer")
_INSTRUCTIONS = """\
You are to improve a {noun}. {ask} of `{name}`, whose source is shown below: one idea, as small a change
as it takes.

{rules}- A change is checked, measured on one trial's budget and compared with the champion by others; there is no data
  here to try it on.
- Do not propose what was tried, as listed below, unless you know why it comes out otherwise this time.
{rule}- Give `edits`: each `search` is copied from the source to the letter, whole lines with their indentation, as many
  as make it occur once; `replace` is what is to stand there instead. Edits are applied one after another. Give the
  whole new text as `file` only where edits would be longer, and never both.
- `hypothesis` is one line that says what is changed and why that is better.
- `predicted_effect` is the change that you expect of {metric}, a number; {better} is better, so a gain is {sign}.
- `category` names the kind of change, one of: {categories}.
- `why` may say in at most {why} characters why it should work: people read it as your opinion.
- What is asked for this time stands at the end of this page.
"""
_ONE = "Answer with one change"
_SEVERAL = """\
Answer with `proposals`: {count} changes, as unlike each other as they can be, each by itself a change"""
_SEVERAL_RULES = """\
- The first of the {count} is measured next, the others in the experiments after it, each against the champion of its
  time. They do not build on one another. If a kind of change is asked for, the first is of that kind.
"""
_OTHERS_KEPT = """

This is about the first, {hypothesis}. The others of your answer are kept: give one proposal in place of the first."""
_REPAIR = """\
That answer cannot be used, and nothing of it was applied:

{reason}

Answer again, whole and in the same form, with edits of the source as it stands in the brief."""


class GeminiProposer:
    """Asks a model for one change at a time; a fresh conversation for each experiment."""

    name = "gemini"

    def __init__(
        self,
        options: GeminiOptions,
        editable_name: str,
        examine: Examine | None,
        llm_dir: Callable[[int], Path],
        brief_tokens: int = DEFAULT_TOKENS,
        notice: Callable[[str], None] = lambda text: None,
        keep_others: KeepOthers = lambda brief, first, others: None,
    ) -> None:
        """Makes the client; sends nothing.

        Args:
          examine: tries a text before it is proposed; None proposes every text that parses.
          keep_others: takes what an answer has beside its first proposal; needed if the options ask for several.

        Raises:
          UserError: there are no application-default credentials, and they are asked for.
        """
        self._options = options
        self._editable_name = editable_name
        self._examine = examine
        self._brief_tokens = brief_tokens
        self._notice = notice
        self._keep_others = keep_others
        self._client = GeminiClient(options)
        self._spending = Spending(options, llm_dir, self._client.secrets, notice)

    def check_model(self) -> str | None:
        """Asks the service whether it has the model, which costs nothing.

        Returns:
          A line of warning if the service cannot be asked now; else None.

        Raises:
          UserError: it does not, or refuses the key; in the service's own words.
        """
        model = self._options.model
        http = types.HttpOptions(timeout=milliseconds(CHECK_SECONDS), retry_options=types.HttpRetryOptions(attempts=1))
        config = types.GetModelConfig(http_options=http)
        try:
            found = self._client.run(lambda client: client.models.get(model=model, config=config), CHECK_SECONDS)
        except ProposalFailed as refused:
            raise UserError(f"--gemini_model={model}: {refused}") from refused
        except NotLetIn as refused:
            raise UserError(f"not let in: {refused}") from refused
        except ServiceDown as down:
            return f"the service of {model} cannot be asked now: {down}"
        most, wanted = found.output_token_limit, self._options.max_output_tokens
        if most is not None and most < wanted:
            raise UserError(f"--max_output_tokens={wanted}: {model} gives {most} at most")
        return None

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`.

        Raises:
          LimitReached: the next request could go beyond a limit.
          BriefError: what must be in the brief does not fit.
          ExchangeError: what was spent is not known.
        """
        page = write_brief(brief, instructions(brief, self._editable_name, self._options.proposals), self._brief_tokens)
        try:
            proposal = self._proposal(brief, page)
        except ProposalFailed as failure:
            reason = clean_secret_line(str(failure), self._client.secrets())
            raise ProposalFailed(reason, self._spending.dollars(brief.experiment)) from failure
        except ServiceDown as down:
            raise ServiceDown(f"{self._options.model}: {down}", down.retry_seconds) from down
        return replace(proposal, cost_dollars=self._spending.dollars(brief.experiment))

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`."""
        return True

    def close(self) -> None:
        """See `Proposer.close`; for good."""
        self._client.close()

    def _proposal(self, brief: Brief, page: str) -> Proposal:
        """Asks until an answer can be measured; the last that could be applied if there will be no other."""
        turns = [_turn("user", page)]
        left = self._options.proposal_seconds  # for requests and waits; the time of tracing is not counted
        repeated = False
        text: Proposal | None = None
        problem: Objection | None = None
        for repairs in range(self._options.repair_rounds + 1):
            start = time.monotonic()
            try:
                response = self._ask(brief, turns, left)
                left = max(0.0, left - (time.monotonic() - start))
                proposal, problem = self._read(brief, response)
            except (LimitReached, ServiceDown, ProposalFailed) as end:
                if text is not None and not isinstance(end, Closed):
                    return text
                if problem is not None and isinstance(end, ServiceDown):
                    raise ProposalFailed(clean_line(f"{end}; before that: {problem.text}")) from end
                raise
            if problem is None:
                assert proposal is not None
                return proposal
            text = proposal or text
            if repairs == self._options.repair_rounds or (repeated and problem.repeats):
                if text is not None:
                    return text  # it is written down with what becomes of it, and costs no trial
                tried = f"after {repairs} repair{'' if repairs == 1 else 's'}: " if repairs else ""
                raise ProposalFailed(clean_line(f"{tried}{problem.text}"))
            repeated = repeated or problem.repeats
            said = _answer_text(response).strip() or "(no text)"
            if len(said) > MAX_ECHO_CHARACTERS:
                said = f"{said[:MAX_ECHO_CHARACTERS]}\n[{len(said) - MAX_ECHO_CHARACTERS} characters cut]"
            if problem is not _NOTHING_SENT:  # else there is nothing to mend, and the same is asked again
                turns += [_turn("model", said), _turn("user", _REPAIR.format(reason=problem.text))]
        raise AssertionError("the last round ends it")

    def _ask(self, brief: Brief, turns: Sequence[dict[str, Any]], seconds: float) -> types.GenerateContentResponse:
        """Sends the conversation; each attempt is written down, before and after."""
        options = self._options
        config = {
            "response_mime_type": "application/json",
            "response_schema": answer_schema(brief, options.proposals),
            "max_output_tokens": options.max_output_tokens,
            "temperature": options.temperature,
        }
        request = {"contents": list(turns), "config": config}
        http = types.HttpOptions(timeout=milliseconds(min(seconds, options.request_seconds)))
        contents = [types.Content.model_validate(turn) for turn in turns]
        sent = types.GenerateContentConfig.model_validate({**config, "http_options": http})
        return self._client.run(
            lambda client: client.models.generate_content(model=options.model, contents=list(contents), config=sent),
            seconds,
            lambda: self._spending.begin(brief.experiment, request),
        )

    def _read(self, brief: Brief, response: Any) -> tuple[Proposal | None, Objection | None]:
        """The proposal that an answer is, if it could be applied, and what is wrong with it, if anything is.

        Raises ProposalFailed if the service blocked the prompt or the answer.
        """
        secrets = self._client.secrets()
        candidate = response.candidates[0] if response.candidates else None
        finish = None if candidate is None else _word(candidate.finish_reason, secrets)
        blocked = response.prompt_feedback and _word(response.prompt_feedback.block_reason, secrets)
        if blocked or finish in _BLOCKED:
            raise ProposalFailed(f"the service blocked it: {blocked or finish}")
        if candidate is None or (candidate.content is None and finish in (None, "STOP")):
            return None, _NOTHING_SENT
        if finish == "MAX_TOKENS":
            most = f"{self._options.max_output_tokens} tokens, thinking included (--max_output_tokens)"
            return None, Objection(f"the answer was cut off at {most}: give smaller edits")
        if finish not in (None, "STOP"):
            return None, Objection(f"the answer ended early: {finish}")
        try:
            answers, faults = read_answers(_answer_text(response), brief, self._options.proposals, secrets)
        except EditError as error:
            return None, Objection(redact(str(error), secrets), repeats=error.unchanged)
        if faults:
            why = redact(clean_line(str(faults[0])), secrets)
            self._notice(
                f"{self._options.model}: {len(faults)} of {len(faults) + len(answers)} proposals left out: {why}"
            )
        dollars = self._spending.dollars(brief.experiment)
        proposal, *others = (
            Proposal(
                answer.hypothesis,
                answer.category,
                source=answer.source,
                cost_dollars=dollars,
                proposer=self.name,
                used=answer.used,
                why=answer.why,
            )
            for answer in answers
        )
        assert proposal.source is not None
        self._keep_others(brief, proposal.source, others)
        objection = None if self._examine is None else self._examine(brief, proposal)
        if objection is not None and others:
            about = _OTHERS_KEPT.format(hypothesis=quoted(proposal.hypothesis))
            objection = replace(objection, text=objection.text + about)
        return proposal, objection


def instructions(brief: Brief, name: str, count: int = 1) -> str:
    """Our own words at the head of the brief, which itself says what is asked for this time; for `count` proposals."""
    minimize = brief.metric.direction == "minimize"
    rules = _SEVERAL_RULES.format(count=count) if count > 1 else ""
    return _INSTRUCTIONS.format(
        noun=brief.asset.noun,
        rules=rules,
        rule=rule_line(brief.asset),
        ask=_SEVERAL.format(count=count) if count > 1 else _ONE,
        name=name,
        metric=clean_line(brief.metric.name),
        better="lower" if minimize else "higher",
        sign="negative" if minimize else "positive",
        categories=", ".join(category_names(brief)),
        why=MAX_WHY_CHARACTERS,
    )


def _answer_text(response: Any) -> str:
    """The words of an answer, without the thinking."""
    candidate = response.candidates[0] if response.candidates else None
    parts = (candidate.content.parts if candidate is not None and candidate.content is not None else None) or []
    return "".join(part.text for part in parts if part.text and not part.thought)


def _word(value: Any, secrets: Sequence[str]) -> str | None:
    """An enumeration's word, which a server may have made up."""
    return None if value is None else clean_secret_line(str(getattr(value, "value", value)), secrets, 40)


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text}]}
