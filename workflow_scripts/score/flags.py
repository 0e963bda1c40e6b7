"""The command lines of scorers and of what measures a model for them: one shape each, so that one rule serves all.

A scorer of answers reads a prompt set and a policy's answers to it; a scorer of measured rows reads what was measured
on the model, or rewarded, before. What a scorer takes besides, it adds to the parser that it gets here. Its `settings`
are a TypedDict (see common.settings).
"""

from argparse import ArgumentParser
from pathlib import Path

from workflow_scripts.common.settings import settings_of


def answers_parser(description: str | None, settings: type) -> ArgumentParser:
    """Return the parser of a scorer of answers: --prompts, --generations, --settings, --output."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--prompts", required=True, help="the prompt set")
    parser.add_argument("--generations", required=True, help="the policy's answers to it")
    return with_settings(parser, settings)


def judged_parser(description: str | None, settings: type) -> ArgumentParser:
    """Return the parser of a scorer of judged answers: that of answers, and --verdicts."""
    parser = answers_parser(description, settings)
    parser.add_argument("--verdicts", required=True, help="the judge's verdicts, one per answer")
    return parser


def measured_parser(description: str | None, settings: type, rows: str) -> ArgumentParser:
    """Return the parser of a scorer of measured rows: --measured, --settings, --output; `rows`: what a row holds."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--measured", required=True, help=rows)
    return with_settings(parser, settings)


def measuring_parser(description: str | None, settings: type, rows: str) -> ArgumentParser:
    """Return the parser of what measures a model: --rows, --model, --settings, --output, maybe --calibration."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--rows", type=Path, required=True, help=rows)
    parser.add_argument(
        "--model", type=Path, required=True, help="model folder (calibration: the tokenizer's)"
    )
    parser.add_argument("--calibration", choices=("gold", "empty"), help="measure this pseudo-policy instead")
    return with_settings(parser, settings)


def with_settings(parser: ArgumentParser, settings: type) -> ArgumentParser:
    """Return a parser that also takes --settings and --output, as every one of them does."""
    keys = ", ".join(settings.__annotations__)
    parser.add_argument("--settings", type=settings_of(settings), required=True, help=f"as JSON: {keys}")
    parser.add_argument("--output", required=True, help="file to write")
    return parser
