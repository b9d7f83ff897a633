"""The ground truth of small worlds: procedural pictures, what is measured in them, and simulated voters. numpy
alone."""
