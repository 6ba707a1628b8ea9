"""A comparison as JUnit XML: one suite a task, one for all tasks together, one for the geometry."""

from __future__ import annotations

from xml.etree import ElementTree

from refusal_bench.comparison import phrases
from refusal_bench.comparison.compare import Comparison
from refusal_bench.comparison.verdicts import Verdict
from refusal_bench.words import visible

TOGETHER = "all tasks"


def junit(comparison: Comparison) -> str:
    """Return the XML: a failed check is a failure, not enough data a skip, what forbids comparing an error."""
    root = ElementTree.Element("testsuites", name="refusal-bench compare")
    if comparison.obstacles:
        suite = ElementTree.SubElement(root, "testsuite", name="comparability")
        for text in comparison.obstacles:
            case = ElementTree.SubElement(suite, "testcase", classname="refusal_bench", name="comparable")
            ElementTree.SubElement(case, "error", message=visible(text))
    suites: dict[str, ElementTree.Element] = {}
    for verdict in comparison.verdicts:
        name = visible(suite_name(verdict))
        if name not in suites:
            suites[name] = ElementTree.SubElement(root, "testsuite", name=name)
        _case(suites[name], verdict, comparison)
    for suite in root:
        suite.set("tests", str(len(suite)))
        for tag, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    ElementTree.indent(root)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ElementTree.tostring(root, encoding='unicode')}\n"


def suite_name(verdict: Verdict) -> str:
    """Suite that a measurement belongs to."""
    if verdict.measurement.name.startswith("geometry."):
        return "geometry"
    return verdict.measurement.task or TOGETHER


def _case(suite: ElementTree.Element, verdict: Verdict, comparison: Comparison) -> None:
    name = visible(verdict.measurement.name)
    case = ElementTree.SubElement(suite, "testcase", classname=f"refusal_bench.{suite.get('name')}", name=name)
    failed = [check for check in comparison.failures if check.measurement.name == verdict.measurement.name]
    for check in failed:
        message = visible(phrases.failure(check))
        ElementTree.SubElement(case, "failure", type=visible(check.expression.text), message=message)
    if not failed and verdict.word == "not enough data":
        ElementTree.SubElement(case, "skipped", message=phrases.verdict_words(verdict))
    cells = zip(phrases.COLUMNS[1:], phrases.measurement_cells(verdict)[1:], strict=True)
    ElementTree.SubElement(case, "system-out").text = ", ".join(f"{column} {cell}" for column, cell in cells)
