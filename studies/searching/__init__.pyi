from .plots import plot_search as plot_search
from .rows import training_rows as training_rows
from .space import read_narrowed as read_narrowed
from .storage import without_password as without_password
from .study import search as search
