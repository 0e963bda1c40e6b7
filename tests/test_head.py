"""Snakemake's head plans in fewer CPU seconds, and plans the same."""

import gc
import inspect

import pytest
from snakemake.common import get_function_params
from snakemake.output_index import OutputIndex
from snakemake.resources import Resource

from workflow_scripts.plan.head import SELDOM, plan_quickly


@pytest.fixture(autouse=True)
def quickly():
    own, before = OutputIndex.match_producers, gc.get_threshold()
    plan_quickly()
    yield
    gc.set_threshold(*before)
    OutputIndex.match_producers = own


class Product(str):
    def constant_prefix(self) -> str:
        return self.partition("{")[0]

    def constant_suffix(self) -> str:
        return self.rpartition("}")[2]


class Rule:
    """Makes files of one pattern, and counts how often it is asked whether it does."""

    def __init__(self, product: str) -> None:
        self.product, self.asked = Product(product), 0

    def products(self) -> list[Product]:
        return [self.product]

    def is_producer(self, file: str) -> bool:
        self.asked += 1
        return "-" in file


def test_who_makes_a_file_is_looked_up_once():
    scores, others = Rule("scores/{name}.json"), Rule("tables/{name}.csv")
    index = OutputIndex([scores, others])
    for _ in range(3):
        assert index.match_producers("scores/a-1.json") == {scores}
        assert index.match_producers("scores/a.json") == set()
    assert (scores.asked, others.asked) == (2, 0)
    assert OutputIndex([others]).match_producers("scores/a-1.json") == set()  # each index knows its own


def test_what_a_resource_takes_is_what_its_signature_says():
    resource = Resource("gpu", lambda wildcards, attempt: attempt)
    assert dict(get_function_params(resource.evaluate)) == dict(
        inspect.signature(resource.evaluate).parameters
    )


def test_garbage_is_looked_for_seldom_and_doing_so_twice_changes_nothing_more():
    once = OutputIndex.match_producers
    plan_quickly()
    assert gc.get_threshold() == SELDOM and OutputIndex.match_producers is once
