"""The ground truth of small worlds: procedural pictures, measurements of them, and simulated voters. numpy alone."""
