from sod.environments.base import Environment as Environment
from sod.front.evaluation import evaluate as evaluate
from sod.front.runs import Run as Run
from sod.front.training import sft as sft
from sod.front.training import train as train
from sod.recipe import Recipe as Recipe
from sod.recipe import load_recipe as load_recipe
from sod.records import Episode as Episode
from sod.records import SodError as SodError
from sod.records import Task as Task
from sod.records import ToolFault as ToolFault
from sod.tools.base import Tool as Tool

__version__: str
