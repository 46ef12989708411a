"""What tests do to the hosts and the packets of a tracer.lab.network.Lab, which the demo does not need."""
