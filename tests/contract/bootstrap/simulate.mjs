// Judges requests by policies: JSON on standard input, JSON on standard output. Only tests use it.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(process.argv[2])
const { runSimulation } = require('@cloud-copilot/iam-simulate')

const { principal, accountId, policies, checks } = JSON.parse(readFileSync(0, 'utf8'))
const answers = []
for (const { action, resource, context } of checks) {
  const response = await runSimulation(
    {
      identityPolicies: policies,
      serviceControlPolicies: [],
      resourceControlPolicies: [],
      request: { action, principal, resource: { accountId, resource }, contextVariables: context },
    },
    {},
  )
  answers.push(response.resultType === 'error' ? { error: response.errors } : { result: response.overallResult })
}
process.stdout.write(JSON.stringify(answers))
