"""Task plugins: a task is a manifest and its JSONL files, or a function in another package."""

from refusal_bench.tasks.content import content_folder
from refusal_bench.tasks.discovery import load_tasks, read_tasks, select_names, task_registry
from refusal_bench.tasks.reading import Problem, Reading
from refusal_bench.tasks.schema import KINDS, Manifest, Row, Task
from refusal_bench.tasks.validation import problems_of

__all__ = [
    "KINDS",
    "Manifest",
    "Problem",
    "Reading",
    "Row",
    "Task",
    "content_folder",
    "load_tasks",
    "problems_of",
    "read_tasks",
    "select_names",
    "task_registry",
]
