"""Methods against data sets by published protocols: configs, units of work, records of results, tables of them.

A config names rows; a row is one method by one protocol on one data set, and a unit is one product, number of shots and
seed of it. `run` measures units and leaves a record of each, whatever happens to the process in between.
"""
