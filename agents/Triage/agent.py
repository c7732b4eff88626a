from agents import Agent

billing = Agent(
    name="Billing",
    handoff_description="Answers questions about invoices, payments and refunds.",
    instructions="Answer questions about invoices, payments and refunds. Be brief and friendly.",
)

support = Agent(
    name="Support",
    handoff_description="Helps with anything that does not work.",
    instructions="Help with technical problems: ask what was tried, then give one step at a time.",
)

agent = Agent(
    name="Triage",
    instructions="Find out what the customer needs, then hand over to Billing or to Support.",
    handoffs=[billing, support],
)
