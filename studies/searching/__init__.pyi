from .space import read_narrowed as read_narrowed
from .storage import without_password as without_password
from .study import search as search
from .task import training_rows as training_rows
