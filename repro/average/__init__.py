"""From the runs of a study to one averaged model, itself a run."""
