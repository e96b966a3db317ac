from .build import report as report
