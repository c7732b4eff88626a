from pydantic import BaseModel

from agents import Agent, GuardrailFunctionOutput, RunContextWrapper, TResponseInputItem, input_guardrail


class Analysis(BaseModel):
    topic: str
    sentiment: str
    confidence: float


@input_guardrail(run_in_parallel=False)
async def no_passwords(
    context: RunContextWrapper, agent: Agent, messages: str | list[TResponseInputItem]
) -> GuardrailFunctionOutput:
    """Refuse texts with a password in them before any model sees them."""
    found = "password" in str(messages).lower()
    return GuardrailFunctionOutput(output_info={"password": found}, tripwire_triggered=found)


agent = Agent(
    name="Analyst",
    instructions="Analyse the text: its topic, its sentiment in one word, and how sure you are from 0 to 1.",
    output_type=Analysis,
    input_guardrails=[no_passwords],
)
